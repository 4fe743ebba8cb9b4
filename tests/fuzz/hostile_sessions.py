"""Clients that write anything anywhere, one after the other, beside two that go on echoing with every byte checked.

python tests/fuzz/hostile_sessions.py SEED SESSIONS      starts a server of two models, and says what became of it
"""

import collections
import contextlib
import os
import random
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from client import Client, connect, hung_up, read_frame, read_reason
from conftest import ROOT, ServerProcess, children, until
from messages import NASTY, first_message

from shm_server import _core, layout
from shm_server.layout import FrameKind, Op, Protocol, Reason

SERVE = [sys.executable, "-m", "shm_server.cli", "serve", "stub_models:masked"]
SERVE += ["--generator", "stub_generators:computing", "--prompt-priority", "normal"]


class Honest:
    """A client that echoes until `stop`, in a thread of its own; `echoes` it has had, every byte as it should be."""

    def __init__(self, path: Path, protocol: Protocol, seed: int) -> None:
        self.echoes, self.failure = 0, None
        self._client = Client(path, protocol=protocol, slots=4)
        self._random, self._stopping = np.random.default_rng(seed), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._echo(self.echoes % 4)
                self.echoes += 1
        except BaseException as error:
            self.failure = error

    def _echo(self, slot: int) -> None:
        client = self._client
        stream = "controls" in vars(client)
        sent = []
        extent = int(self._random.integers(1, 64))
        for number, rows in enumerate(client.inputs):
            size = extent * int(np.dtype(client.array(number).dtype).itemsize)
            sent.append(self._random.integers(32, 127, size, np.uint8))
            rows[slot, :size] = sent[-1]
        request = client.submit(slot, extent=extent)
        done = client.wait(120)
        padded = b"".join(each.tobytes().ljust(-(-len(each) // 8) * 8, b"\0") for each in sent)
        assert (done["request_id"], done["slot"], done["status"], done["extent"]) == (request, slot, 0, extent), done
        assert done["checksum"] == _core.checksum(padded)
        assert not stream or client.replies[slot, :extent].tobytes() == sent[0].tobytes()

    def stop(self) -> int:
        """End it: how many echoes it has had."""
        self._stopping.set()
        self._thread.join()
        self._client.close()
        if self.failure:
            raise self.failure
        return self.echoes


class Hostile:
    """Attacks a server. What a session of its is told is counted in `told`, what it has written in `descriptors`."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path, self._random = path, random.Random(seed)
        self.told: collections.Counter[str] = collections.Counter()
        self.descriptors = 0

    def attack(self) -> None:
        if self._random.random() < 0.3:
            self._say_hello()
        else:
            self._have_a_session()

    def _say_hello(self) -> None:
        message = first_message(self._random)
        with connect(self._path) as sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has heard enough
                sock.sendall(message)
            if len(message) < 16 or self._random.random() < 0.3:
                return  # hang up, whatever it makes of that
            if int.from_bytes(message[8:12], "little") + 16 > len(message) and message[:4] == b"STB1":
                return  # it waits for more
            try:
                kind, _, descriptors = read_frame(sock)
            except ConnectionResetError:  # the answer was lost on the way: bytes of ours came too late to be read
                self.told["reset"] += 1
                return
            assert kind in (FrameKind.WELCOME, FrameKind.REFUSAL, FrameKind.ANSWER), kind
            self.told[FrameKind(kind).name] += 1
            for fd in descriptors:
                os.close(fd)

    def _have_a_session(self) -> None:
        choose = self._random
        protocol = choose.choice(list(Protocol))
        with Client(self._path, protocol=protocol, slots=choose.choice((1, 2, 7, 64))) as bad:
            for _ in range(choose.randrange(1, 8)):
                choose.choice((self._submit,) * 6 + (self._scribble, self._rewrite, self._ring))(bad)
            end = choose.random()
            if end < 0.3:
                return  # hang up, whatever is in flight
            if end < 0.45:
                pages = int(bad.welcome["segment_bytes"]) // layout.PAGE_BYTES
                os.ftruncate(bad.fd, choose.randrange(pages) * layout.PAGE_BYTES)  # and touch nothing any more
            else:
                bad.submissions["turn"] = 2**64 - 1
            bad.ring()
            if end < 0.45:
                return
            try:
                assert read_reason(bad.sock)[:2] == (FrameKind.GOODBYE, Reason.PROTOCOL)
            except (EOFError, ConnectionResetError):  # a goodbye is said as far as the socket takes it
                self.told["nothing"] += 1
                return
            assert hung_up(bad.sock)
            self.told["PROTOCOL"] += 1

    def _nasty(self) -> int:
        return self._random.choice(NASTY) if self._random.random() < 0.7 else self._random.getrandbits(64)

    def _submit(self, bad: Client) -> None:
        """Some submissions at once, mostly as they should be."""
        slots = len(bad.slots)
        stream = "controls" in vars(bad)
        bound = int(bad.tensors[0]["dims"][0])
        for slot in self._random.sample(range(slots), self._random.randrange(1, slots + 1)):
            op = self._random.choice((Op.ECHO, Op.RUN))
            fields = {"slot": slot, "op": op, "extent": self._random.randrange(bound + 1), "sampling_steps": 3}
            fields |= {"turn": layout.turn(bad.tail, len(bad.submissions)), "request_id": bad.tail}
            if stream and op == Op.RUN:
                fields["flags"] = self._random.randrange(8)
            if self._random.random() < 0.03:
                name = self._random.choice(bad.submissions.dtype.names)
                size = bad.submissions.dtype[name].itemsize
                fields[name] = np.frombuffer(self._nasty().to_bytes(8, "little")[:size], bad.submissions.dtype[name])[0]
            turn = fields.pop("turn")
            entry = bad.submissions[bad.tail % len(bad.submissions)]
            for name, value in fields.items():
                entry[name] = value
            entry["turn"] = turn
            bad.tail += 1
            self.descriptors += 1
        bad.ring()

    def _scribble(self, bad: Client) -> None:
        """A nasty word, or many, where one reads or writes."""
        areas = [np.frombuffer(bad.memory, np.uint64, layout.PAGE_BYTES // 8), bad.completions.view(np.uint64)]
        areas += [bad.slots.reshape(-1)[: len(bad.slots) * bad.slots.shape[1] // 8 * 8].view(np.uint64)]
        if "controls" in vars(bad):
            areas += [bad.controls.view(np.uint64), bad.progress.view(np.uint64)]
        area = self._random.choice(areas)
        for _ in range(self._random.choice((1, 100))):
            area[self._random.randrange(len(area))] = self._nasty()
        bad.ring()

    def _rewrite(self, bad: Client) -> None:
        """Change an entry's words while the server reads them."""
        entry = bad.submissions[bad.tail % len(bad.submissions)]
        self._submit(bad)
        for _ in range(300):
            entry["slot"], entry["extent"] = self._nasty() & 0xFFFFFFFF, self._nasty() & 0xFFFFFFFF

    def _ring(self, bad: Client) -> None:
        """Bells, and now and then a byte that is none."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            bad.sock.sendall(bytes([layout.BELL]) * self._random.choice((1, 1000)))
            if self._random.random() < 0.1:
                bad.sock.sendall(bytes([self._random.randrange(256)]))


def segments(pid: int) -> int:
    return Path(f"/proc/{pid}/maps").read_text().count("shm-server-")


def fuzz(server: ServerProcess, seed: int, sessions: int) -> None:
    """AssertionError unless each ends nothing but its own session, and leaves nothing."""
    pids = [server.pid, *children(server.pid)]
    for protocol in Protocol:  # what the first session of a process opens for good, it has open then
        Client(server.socket, protocol=protocol).close()
    until(lambda: not any(map(segments, pids)))
    open_files = [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]
    honest = [Honest(server.socket, protocol, seed) for protocol in Protocol]
    hostile = Hostile(server.socket, seed)
    try:
        for number in range(1, sessions + 1):
            hostile.attack()
            assert not any(each.failure for each in honest), [each.failure for each in honest]
            if number % 1000 == 0:
                print(f"{number} of {sessions} sessions, {sum(each.echoes for each in honest)} echoes", flush=True)
    finally:
        echoes = [each.stop() for each in honest]
    assert all(echoes), "an honest client was never served"
    until(lambda: [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids] == open_files)
    until(lambda: not any(map(segments, pids)))
    assert [server.pid, *children(server.pid)] == pids, "a process was started again"
    told = ", ".join(f"{name} {count}" for name, count in sorted(hostile.told.items()))
    print(f"{sessions} sessions, {hostile.descriptors} descriptors; told {told}; {sum(echoes)} echoes beside them")


def main() -> None:
    seed, sessions = int(sys.argv[1], 0), int(sys.argv[2])
    print(f"seed {seed}")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "sock"
        server = ServerProcess([*SERVE, "--socket", str(socket)], socket, Path(folder) / "log")
        try:
            fuzz(server, seed, sessions)
            server.stop()
        except BaseException:
            print("the server said last:", *server.log.splitlines()[-20:], sep="\n")
            raise
        finally:
            server.process.kill()
            server.process.wait()


if __name__ == "__main__":
    main()
