"""Many clients at once, every byte and every count checked. SHM_TEST_SEED repeats a run."""

import contextlib
import multiprocessing
import os
import random
import select
import socket
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from client import IMAGE_BYTES, Client

from shm_server import _core, layout
from shm_server.layout import Op, Status

SEED = int(os.environ.get("SHM_TEST_SEED", random.SystemRandom().randrange(2**32)))


class Patient(Client):
    """Rings without waiting, and sleeps on the socket when there is nothing to take."""

    def __init__(self, path, *, slots: int) -> None:
        super().__init__(path, slots=slots)
        self.sock.setblocking(False)
        self.bells = 0

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the socket is full of bells
            self.sock.send(bytes([layout.BELL]))

    def ready(self) -> bool:
        entries = len(self.completions)
        return self.completions[self.head % entries]["turn"] == layout.turn(self.head, entries)

    def sleep(self) -> None:
        self.header["client_parked"] = 1
        if not self.ready():
            # Python has no fence, so a bell may be missed here: look again after a while.
            select.select([self.sock], [], [], 0.02)
        self.header["client_parked"] = 0
        with contextlib.suppress(BlockingIOError):
            got = self.sock.recv(4096)
            assert got == bytes([layout.BELL]) * len(got), got
            assert got, "the server hung up"
            self.bells += len(got)


class Expected:
    """A request in flight and what its completion must say."""

    def __init__(self, rng: np.random.Generator, client: Client, slot: int) -> None:
        self.op = Op(rng.integers(1, 3))
        low = rng.integers(0, 200)
        self.pixels = rng.integers(low, low + 56, IMAGE_BYTES, np.uint8)
        client.slots[slot] = self.pixels
        self.late = rng.integers(50) == 0
        self.id = client.submit(
            slot,
            self.op,
            deadline=1 if self.late else 0,
            submitted=time.monotonic_ns(),
        )

    def check(self, client: Client, done: np.void) -> None:
        slot = done["slot"]
        assert done["request_id"] == self.id
        np.testing.assert_array_equal(client.slots[slot], self.pixels)
        if self.late:
            assert (done["status"], done["batch"]) == (Status.DEADLINE_EXCEEDED, 0)
            return
        assert done["status"] == Status.OK
        assert done["batch"] >= 1
        if self.op == Op.ECHO:
            assert done["checksum"] == _core.checksum(self.pixels.tobytes())
            return
        bright = self.pixels.mean(dtype=np.float64) / 255
        np.testing.assert_allclose(client.scores(slot), [1 - bright, bright], rtol=1e-4)


def converse(path: str, slots: int, requests: int, seed: int) -> dict[str, int]:
    """One session: random requests in random slots, as many in flight as chance has it."""
    rng = np.random.default_rng(seed)
    counts = {"echo": 0, "classify": 0, "late": 0, "bells": 0}
    with Patient(path, slots=slots) as client:
        waiting: dict[int, Expected] = {}
        sent = 0
        end = time.monotonic() + 60
        while sent < requests or waiting:
            assert time.monotonic() < end, f"seed {seed}: {len(waiting)} calls were never answered"
            free = [slot for slot in range(slots) if slot not in waiting]
            for slot in rng.permutation(free)[: rng.integers(0, slots + 1)]:
                if sent < requests:
                    waiting[int(slot)] = Expected(rng, client, int(slot))
                    sent += 1
            if not client.ready() and waiting:
                client.sleep()
            while client.ready():
                done = client.wait()
                call = waiting.pop(int(done["slot"]))
                call.check(client, done)
                counts["late" if call.late else "echo" if call.op == Op.ECHO else "classify"] += 1
        counts["bells"] = client.bells
    return counts


def converse_in_threads(path: str, sessions: list[tuple[int, int, int]]) -> list[dict[str, int]]:
    results: list[dict[str, int]] = []
    failures: list[BaseException] = []

    def one(arguments: tuple[int, int, int]) -> None:
        try:
            results.append(converse(path, *arguments))
        except BaseException as failure:  # handed to the test
            failures.append(failure)

    threads = [threading.Thread(target=one, args=(arguments,)) for arguments in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


def test_clients_in_threads_and_processes_get_every_answer_once_and_right(start):
    print(f"seed {SEED}")
    server = start(stub="brightness")
    rng = random.Random(SEED)
    sessions = [[(slots, 300, rng.randrange(2**32)) for slots in group] for group in ((1, 4, 64), (3, 8, 16))]
    results: list[dict[str, int]] = []
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for done in [pool.submit(converse_in_threads, str(server.socket), group) for group in sessions]:
            results += done.result(90)
    totals = {name: sum(result[name] for result in results) for name in results[0]}
    assert len(results) == 6
    assert totals["echo"] + totals["classify"] + totals["late"] == 6 * 300
    counters = server.stop()
    assert counters["echoes"] == totals["echo"]
    assert counters["calls"] == totals["classify"]
    assert counters["expired"] == totals["late"]
    assert counters["protocol_faults"] == 0
    assert counters["bells_sent"] >= totals["bells"] > 0


def test_sessions_come_and_go_while_another_one_works(start):
    print(f"seed {SEED}")
    server = start(stub="brightness")
    path, rng = str(server.socket), random.Random(SEED)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        worker = pool.submit(converse, path, 8, 400, SEED)
        visits = 0
        while not worker.done():
            with Client(path, slots=rng.randrange(1, 5)) as client:
                for slot in range(rng.randrange(3)):
                    if slot < len(client.slots):
                        client.submit(slot, rng.choice([Op.ECHO, Op.RUN]))
                if rng.random() < 0.3:
                    client.sock.shutdown(socket.SHUT_WR)
            visits += 1
        counts = worker.result()
    assert counts["echo"] + counts["classify"] + counts["late"] == 400
    assert visits > 5
    counters = server.stop()
    assert counters["protocol_faults"] == 0
