"""The client of an event loop: the same models, awaited. The loop watches the doorbells; no thread waits.

async with AsyncClient() as client:
    iris = await client.model("iris")
    y = await iris(x)
    async for piece in client.stream("To be, or not to be"):
        print(piece, end="", flush=True)
"""

import asyncio
import contextlib
import os
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from shm_server.client import arguments, signature
from shm_server.client.arguments import Rows
from shm_server.client.client import Connections, lane_request
from shm_server.client.deadlines import deadline_ns, seconds
from shm_server.client.errors import ClientError, WrongShape
from shm_server.client.link import MOST_MOVES, Link, sent_on
from shm_server.client.model import ECHO, RUN, Interface, collect, write
from shm_server.client.session import DRAINING, ENDED, LATE, LOST, LOST_LATE, Session
from shm_server.client.signature import ModelInfo
from shm_server.client.stream import Prompt, Reply
from shm_server.layout import Protocol
from shm_server.runtime import forked


class Doorbell:
    """A session in an event loop: who waits for news of a slot, and who for a free slot. It watches a descriptor of its
    own, which it closes itself, so that the loop never watches one that somebody else has closed.
    """

    def __init__(self, session: Session) -> None:
        self.session, self._loop = session, asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future] = {}
        self._claimers: deque[asyncio.Future] = deque()
        self._fd = os.dup(session.fileno())
        self._loop.add_reader(self._fd, self.turn)
        forked.close_in_child(self._forget)

    def serves(self, session: Session) -> bool:
        return self.session is session and self._loop is asyncio.get_running_loop()

    def turn(self) -> None:
        """Hand out what has come, and ask for a bell when there is more. After each submission too."""
        lane = self.session.lane
        for slot in lane.events():
            if (future := self._waiting.pop(slot, None)) and not future.done():
                future.set_result(None)
        self.wake_claimers()
        if lane.over:
            self._unwatch()

    def expect(self, slot: int) -> asyncio.Future:
        """Done when there is news of the slot."""
        future = self._waiting[slot] = self._loop.create_future()
        if self.session.lane.ready(slot):  # nobody was there to be told
            future.set_result(None)
        return future

    async def claim(self, most: int, deadline: int) -> list[int] | int:
        """As ClientLane.claim has it, but that it waits."""
        while True:
            slots = self.session.lane.claim(most, 1)
            if slots == DRAINING:
                self.turn()  # it may have said more by now: that the model has moved
                return ENDED if self.session.lane.over else DRAINING
            if slots != LATE:
                return slots
            future = self._loop.create_future()
            self._claimers.append(future)
            try:
                async with asyncio.timeout_at(self._until(deadline)):
                    await future
            except TimeoutError:
                return LATE
            finally:
                if not future.done():
                    future.cancel()
                self.wake_claimers()  # should it have been us and we go, the next one

    async def news(self, futures: list[asyncio.Future], deadline: int) -> int:
        """As ClientLane.wait has it."""
        try:
            async with asyncio.timeout_at(self._until(deadline)):
                for future in futures:
                    await future
        except TimeoutError:
            return LOST_LATE
        return LOST if self.session.lane.over else 0

    def give_up(self, slots: list[int]) -> None:
        for slot in slots:
            self._waiting.pop(slot, None)
            self.session.lane.abandon(slot)
        self.wake_claimers()

    def wake_claimers(self) -> None:
        count = len(self._claimers) if self.session.lane.over else self.session.lane.free
        while count and self._claimers:
            future = self._claimers.popleft()
            if not future.done():
                future.set_result(None)
                count -= 1

    def close(self) -> None:
        """The session is over. In the loop's thread, or when it runs no more."""
        if not self._loop.is_closed():
            self.turn()  # whoever waits still is told
        self._unwatch()

    def _unwatch(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(fd)
            os.close(fd)

    def _until(self, deadline: int) -> float | None:
        return None if not deadline else seconds(deadline)  # asyncio's loops read the same clock

    def _forget(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Caller:
    """A link in an event loop."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._bell: Doorbell | None = None

    async def bell(self, deadline: int) -> Doorbell:
        """Of the session for a new call. Dialling blocks, in a thread."""
        bell = self._bell
        if bell is not None and not bell.session.lane.over and bell.serves(bell.session):
            return bell
        for _ in range(MOST_MOVES):
            session = await asyncio.to_thread(self._link.session, seconds(deadline))
            if self._bell is not None and self._bell.serves(session):  # somebody else has made it meanwhile
                return self._bell
            self.close()
            with contextlib.suppress(OSError):  # it has ended meanwhile
                self._bell = Doorbell(session)
                return self._bell
        raise sent_on(session)

    async def lost(self, session: Session, answer: int) -> ClientError | None:
        """See Session.lost. The server's last words may let us wait."""
        if answer == LOST:
            await asyncio.to_thread(session.failure)
        return session.lost(answer)

    def close(self) -> None:
        """The bell is another loop's, or its session is over."""
        bell, self._bell = self._bell, None
        if bell:
            bell.close()


class AsyncModel(Interface):
    """One of the server's models; see `Model`, whose calls these are."""

    def __init__(self, caller: Caller, session: Session) -> None:
        super().__init__(session.signature, session.bound)
        self._caller, self._session = caller, session

    @property
    def over(self) -> bool:
        """Has the session ended in which it was asked for? Its calls go on in another, but its version may be older."""
        return self._session.lane.over

    async def __call__(self, *args: Any, timeout: float | None = None, **inputs: Any) -> Any:
        """See `Model.__call__`. A call that is cancelled keeps its slot from others until the server is through with
        it.
        """
        rows = arguments.take(self.inputs, self.bound, args, inputs)
        return self.given(await self._run(rows, deadline_ns(timeout)))

    async def run(self, inputs: Mapping[str, Any], *, timeout: float | None = None) -> dict[str, np.ndarray]:
        """See `Model.run`."""
        rows = arguments.take(self.inputs, self.bound, (), inputs)
        outputs = await self._run(rows, deadline_ns(timeout))
        return {tensor.name: output for tensor, output in zip(self.outputs, outputs, strict=True)}

    async def echo(self, *args: Any, timeout: float | None = None, **inputs: Any) -> int:
        """See `Model.echo`."""
        rows = arguments.take(self.inputs, self.bound, args, inputs)
        if rows.count is not None:
            raise WrongShape("an echo takes one row, got a batch")
        sums: list[int] = []
        await self._calls(ECHO, _batched(rows), [], deadline_ns(timeout), sums)
        return sums[0]

    async def _run(self, rows: Rows, deadline: int) -> list[np.ndarray]:
        batch = rows if rows.count is not None else _batched(rows)
        outputs = self.empty(batch)
        await self._calls(RUN, batch, outputs, deadline, [])
        return outputs if rows.count is not None else [output[0] for output in outputs]

    async def _calls(self, op: int, rows: Rows, outputs: list[np.ndarray], deadline: int, sums: list[int]) -> None:
        todo, moves = list(range(rows.count)), 0
        while todo:
            bell = await self._caller.bell(deadline)
            self.same(bell.session)
            slots = await bell.claim(len(todo), deadline)
            if type(slots) is list:
                chunk, todo = todo[: len(slots)], todo[len(slots) :]
                again = await self._chunk(bell, slots, op, rows, chunk, outputs, deadline, sums)
            elif error := bell.session.not_sent(slots):
                raise error
            else:
                again, todo = todo, []
            moves += bool(again)
            todo = again + todo
            if moves == MOST_MOVES:
                raise sent_on(bell.session)

    async def _chunk(
        self,
        bell: Doorbell,
        slots: list[int],
        op: int,
        rows: Rows,
        chunk: list[int],
        outputs: list[np.ndarray],
        deadline: int,
        sums: list[int],
    ) -> list[int]:
        session, lane = bell.session, bell.session.lane
        try:
            write(session, slots, rows, chunk)
            if not lane.submit(slots, op, rows.extent, deadline):
                return chunk
            futures = [bell.expect(slot) for slot in slots]
            bell.turn()
            answer = await bell.news(futures, deadline)
            if answer == LOST and all(lane.result(slot) for slot in slots):
                answer = 0  # it was answered before its session ended
            if answer and (error := await self._caller.lost(session, answer)):
                raise error
            again = collect(session, list(zip(slots, chunk, strict=True)), rows, outputs)
            sums += [lane.result(slot)[4] for slot in slots] if op == ECHO and not again else []
            return again
        finally:
            bell.give_up(slots)


class AsyncStream(Reply):
    """An asynchronous iterator of pieces; see `Stream`. The prompt is sent when the first is asked for."""

    def __init__(self, caller: Caller, prompt: Prompt, timeout: float | None) -> None:
        self._caller, self._prompt, self._deadline = caller, prompt, deadline_ns(timeout)
        self._pieces = self._iterate()

    def __aiter__(self) -> "AsyncStream":
        return self

    async def __anext__(self) -> str:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        """Cancel what has not come. Closing twice does nothing."""
        await self._pieces.aclose()

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _iterate(self):
        for _ in range(MOST_MOVES):
            bell = await self._caller.bell(self._deadline)
            slots = await bell.claim(1, self._deadline)
            if type(slots) is not list:
                if error := bell.session.not_sent(slots):
                    raise error
                continue
            try:
                began = False
                async for piece in self._read(bell, slots[0]):
                    began = True
                    yield piece
                return
            except _Again:
                if began:
                    raise bell.session.failure() from None
            finally:
                bell.give_up(slots)
        raise sent_on(bell.session)

    async def _read(self, bell: Doorbell, slot: int):
        session = bell.session
        self._prompt.write(session, slot)
        if not self._prompt.submit(session, slot, self._deadline):
            raise _Again
        last = False
        while not last:
            future = bell.expect(slot)
            bell.turn()
            answer = await bell.news([future], self._deadline)
            if answer == LOST and session.lane.result(slot):
                answer = 0
            if answer:
                raise await self._caller.lost(session, answer) or _Again()
            piece, last = self.take(session, slot)
            if piece:
                yield piece
        if error := self.end(session, slot):
            raise error


class _Again(Exception):
    """The prompt was not run, and is to be made in the next session."""


class AsyncClient(Connections):
    """A server's models, for the coroutines of one event loop; see `Client`."""

    evented = True

    def __init__(self, path: str | None = None, **options: Any) -> None:
        super().__init__(path, **options)
        self._callers: weakref.WeakKeyDictionary[Link, Caller] = weakref.WeakKeyDictionary()

    def _caller(self, link: Link) -> Caller:
        return self._callers.setdefault(link, Caller(link))

    async def model(
        self, name: str = "", *, slots: int = 0, extent: int = 0, timeout: float | None = None
    ) -> AsyncModel:
        """See `Client.model`."""
        request = lane_request(Protocol.CALL, name, slots, extent)
        caller = self._caller(self.link(request))
        try:
            return AsyncModel(caller, (await caller.bell(deadline_ns(timeout))).session)
        except BaseException:
            self.drop(request)
            raise

    async def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """See `Client.models`."""
        return signature.parse_models(await asyncio.to_thread(self.ask, "models", seconds(deadline_ns(timeout))))

    async def health(self, *, timeout: float | None = None) -> dict[str, str]:
        """See `Client.health`."""
        return signature.parse_health(await asyncio.to_thread(self.ask, "health", seconds(deadline_ns(timeout))))

    async def echo(self, *args: Any, timeout: float | None = None, **inputs: Any) -> int:
        """See `Client.echo`."""
        return await (await self.model(timeout=timeout)).echo(*args, timeout=timeout, **inputs)

    def stream(
        self,
        prompt: str,
        *,
        model: str = "",
        slots: int = 0,
        prompt_bytes: int = 0,
        reply_bytes: int = 0,
        timeout: float | None = None,
        **sampling: Any,
    ) -> AsyncStream:
        """See `Client.stream`. Raises InvalidRequest; the iterator raises the rest."""
        checked = Prompt.of(prompt, **sampling)
        request = lane_request(Protocol.STREAM, model, slots, prompt_bytes, reply_bytes)
        return AsyncStream(self._caller(self.link(request)), checked, timeout)

    def close(self) -> None:
        """See `Client.close`; in the loop's thread, or when it runs no more."""
        self.close_links()
        for caller in self._callers.values():
            caller.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)  # who waited learns of it before the loop may end


def _batched(rows: Rows) -> Rows:
    """One call as a batch of one."""
    return Rows(tuple(array[None] for array in rows.arrays), 1, rows.extent)
