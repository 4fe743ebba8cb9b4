"""The events of a text/event-stream, in bounded memory, the last one also where its blank line is missing.

async for data in events(chunks):       # bytes as they come -> the data of each event
    ...

An answer that was not streamed, one JSON object, is one event too.
https://html.spec.whatwg.org/multipage/server-sent-events.html, of which names, ids and times to wait are not for us.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from shm_server.generators.errors import Broken

# A piece of a reply has a few hundred bytes; a whole reply fits too.
MAX_EVENT_BYTES = 1 << 20
_LINE_END = re.compile(rb"\r\n|\r|\n")


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each event. Raises Broken for one of more than MAX_EVENT_BYTES."""
    reader = _Reader()
    async for chunk in chunks:
        for data in reader.feed(chunk):
            yield data
    for data in reader.end():
        yield data


class _Reader:
    def __init__(self) -> None:
        self._rest = bytearray()  # of a line without its end yet
        self._data: list[bytes] = []
        self._size = 0
        self._after_cr = False
        self._begun = self._one_object = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that `chunk` completes."""
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r")
        self._rest += chunk
        found = []
        if b"\n" in chunk or b"\r" in chunk:  # else a long line would be looked at again with each of its chunks
            *lines, rest = _LINE_END.split(bytes(self._rest))
            self._rest = bytearray(rest)
            found = [data for line in lines for data in self._line(line)]
        if self._size + len(self._rest) > MAX_EVENT_BYTES:
            raise Broken(f"an event of the reply has more than {MAX_EVENT_BYTES} bytes")
        return found

    def end(self) -> list[bytes]:
        """The data of the event that the end completes."""
        found = self.feed(b"\n")
        self._one_object = False
        return found + self._line(b"")

    def _line(self, line: bytes) -> list[bytes]:
        """What an event had, once its blank line has come."""
        if line and not self._begun:
            line = line.removeprefix(b"\xef\xbb\xbf")
            self._begun, self._one_object = True, line.lstrip().startswith(b"{")
        if self._one_object:
            self._keep(line, line)
        elif not line:
            event, self._data, self._size = self._data, [], 0
            return [b"\n".join(event)] if event else []
        else:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._keep(line, value.removeprefix(b" "))
        return []

    def _keep(self, line: bytes, data: bytes) -> None:
        self._data.append(data)
        self._size += len(line) + 1
