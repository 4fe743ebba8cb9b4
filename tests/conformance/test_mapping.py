"""Memory that a peer takes away under the core, while it looks, writes, or sleeps: shm_server._core.Mapping.

The peer is this process too, by its descriptor. tests/native runs this file under sanitizers, and guards.c with
threads; tests/faults/test_truncated_segments.py has real clients.
"""

import contextlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from heap_lane import HeapLane, image_spec, prompt_spec

from shm_server import _core
from shm_server.layout import Op, Reason
from shm_server.session.doorbell import Peer
from shm_server.session.segment import Segment, allot
from shm_server.session.session import Session

SIZE = 8 * mmap.PAGESIZE
TRUNCATED = "the client truncated its segment, or took pages out of it"


@pytest.fixture(params=[False, True], ids=["posix", "memfd"])
def sealed(request) -> bool:
    return request.param


@pytest.fixture
def fd():
    """Shared memory of SIZE bytes that may shrink."""
    fd = allot(SIZE, False)
    yield fd
    os.close(fd)


def view(mapping: _core.Mapping) -> np.ndarray:
    return np.frombuffer(mapping, np.uint8)


def held(fd: int) -> int:
    """Bytes of memory that the descriptor's file takes."""
    return os.fstat(fd).st_blocks * 512


# ---- a buffer


def test_a_mapping_is_the_descriptors_memory(fd):
    mapping = _core.Mapping(fd, SIZE)
    view(mapping)[:] = 7
    assert os.pread(fd, SIZE, 0) == bytes([7]) * SIZE
    os.pwrite(fd, b"\x09", 5)
    assert view(mapping)[5] == 9
    assert not mapping.broken
    mapping.close()


def test_a_mapping_stays_while_a_buffer_of_it_is_held(fd):
    mapping = _core.Mapping(fd, SIZE)
    buffer = memoryview(mapping)
    with pytest.raises(BufferError, match="1 buffers"):
        mapping.close()
    buffer[0] = 1
    buffer.release()
    mapping.close()
    mapping.close()
    for use in (memoryview, lambda m: m.collapse(), lambda m: m.broken):
        with pytest.raises(ValueError, match="closed"):
            use(mapping)


def test_what_cannot_be_mapped_is_an_error_and_leaves_nothing(fd):
    def maps() -> int:
        return Path("/proc/self/maps").read_text().count("shm-server-")

    before = maps()
    for size in (0, -1):
        with pytest.raises(ValueError, match="a byte at least"):
            _core.Mapping(fd, size)
    for descriptor, size in ((-1, SIZE), (0, 1 << 60), (fd, 1 << 40), (fd, 2 * SIZE)):  # the last: beyond its end
        with pytest.raises(OSError, match="Errno"):
            _core.Mapping(descriptor, size)
    with pytest.raises(TypeError):
        _core.Mapping(fd)
    mapping = _core.Mapping(fd, SIZE)
    with pytest.raises(ValueError, match="once"):
        mapping.__init__(fd, SIZE)
    mapping.close()
    assert maps() == before


def test_others_go_on_while_a_large_mapping_is_made_and_given_back(fd):
    """In what another thread counts: while this one keeps the GIL, it counts nothing."""
    size, count, stop = 64 << 20, 0, threading.Event()

    def work() -> None:
        nonlocal count
        while not stop.is_set():
            count += 1
            time.sleep(0)

    os.posix_fallocate(fd, 0, size)
    worker = threading.Thread(target=work)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # the GIL goes to the other thread when this one lets go of it, and only then
    try:
        worker.start()
        steps = {"made", "given back"}
        for _ in range(300):  # until it had a processor during each
            before = count
            mapping = _core.Mapping(fd, size)
            if count > before:
                steps.discard("made")
            before = count
            mapping.collapse()
            if count > before:
                steps.discard("given back")
            mapping.close()
            if not steps:
                break
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        worker.join()
    assert not steps


# ---- pages that go


@pytest.mark.parametrize("size", [0, 1, mmap.PAGESIZE, SIZE // 2, SIZE - mmap.PAGESIZE])
def test_a_truncated_mapping_reads_as_zeros_and_takes_writes(fd, size):
    other = allot(SIZE, False)
    mapping, whole = _core.Mapping(fd, SIZE), _core.Mapping(other, SIZE)
    view(mapping)[:] = view(whole)[:] = 7
    os.ftruncate(fd, size)
    assert not view(mapping)[-1]
    assert mapping.broken
    assert not view(mapping).any()
    view(mapping)[:] = 8
    assert (view(mapping) == 8).all()
    assert (view(whole) == 7).all()
    assert not whole.broken
    mapping.close()
    whole.close()
    os.close(other)


def test_pages_that_go_and_come_again_are_the_clients_loss(fd):
    mapping = _core.Mapping(fd, SIZE)
    view(mapping)[:] = 7
    os.ftruncate(fd, 0)
    os.ftruncate(fd, SIZE)
    assert not view(mapping).any()
    assert not mapping.broken
    os.ftruncate(fd, 1 << 40)
    view(mapping)[:] = 7
    assert not mapping.broken
    mapping.close()


def test_a_mapping_is_guarded_where_little_memory_is_left_to_the_process():
    """Under a limit (ulimit -d) that is reached already."""
    script = """
import os, resource
from shm_server import _core
from shm_server.session.segment import allot
fd = allot(32768, False)
mapping = _core.Mapping(fd, 32768)
resource.setrlimit(resource.RLIMIT_DATA, (0, 0))
os.ftruncate(fd, 0)
memoryview(mapping)[5] = 1
os._exit(0 if mapping.broken else 1)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


def test_a_thread_whose_signal_stack_is_no_more_is_guarded_too():
    """A library that ends may leave one behind."""
    script = """
import ctypes, os
from shm_server import _core
from shm_server.session.segment import allot

class Stack(ctypes.Structure):
    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

libc, size = ctypes.CDLL(None, use_errno=True), 1 << 16
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
at = libc.mmap(None, size, 3, 0x22, -1, 0)  # private, anonymous
assert libc.sigaltstack(ctypes.byref(Stack(at, 0, size)), None) == 0
assert libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(size)) == 0
fd = allot(32768, False)
mapping = _core.Mapping(fd, 32768)
os.ftruncate(fd, 0)
memoryview(mapping)[5] = 1
os._exit(0 if mapping.broken else 1)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


# ---- a lane in it

STEPS = {
    "drain": lambda lane: lane.drain(8),
    "echo": lambda lane: lane.complete_echo(),
    "gather": lambda lane: lane.gather(0, np.empty((8, 3072), np.uint8), 0, 3072),
    "scatter": lambda lane: lane.scatter(0, np.ones((8, 3), np.float32), 0, 12, False),
    "calls": lambda lane: lane.complete_calls(1),
    "error": lambda lane: lane.complete_error(b"why"),
    "draining": lambda lane: lane.announce_draining(),
    "begin": lambda lane: lane.begin_prompts(),
    "append": lambda lane: lane.append(0, b"text"),
    "cancelled": lambda lane: lane.cancelled(0),
    "finish": lambda lane: lane.finish_prompt(0, 0, 0, b"why"),
}
SEQUENCES = [
    (image_spec, Op.ECHO, ("drain", "echo", "drain")),
    (image_spec, Op.RUN, ("draining", "drain", "gather", "scatter", "calls", "drain")),
    (image_spec, Op.RUN, ("drain", "error")),
    (prompt_spec, Op.ECHO, ("drain", "echo")),
    (prompt_spec, Op.RUN, ("drain", "begin", "append", "cancelled", "append", "finish", "drain")),
]


@pytest.mark.parametrize(("spec", "op", "steps"), SEQUENCES)
@pytest.mark.parametrize("lap", [0, 3])
def test_a_lane_whose_segment_is_truncated_before_any_step_goes_on_and_says_so(fd, spec, op, steps, lap):
    for cut in range(len(steps) + 1):
        heap = HeapLane(spec(), fd=fd)
        lane, poller = heap.lane, _core.Poller(0)
        poller.add(lane)
        for _ in range(lap * len(heap.submissions)):
            heap.submit(0)
            lane.drain(1)
            lane.complete_echo()
        heap.submit(0, op, flags=0, sampling_steps=8, extent=192 if spec is prompt_spec else 0)
        for step in steps[:cut]:
            STEPS[step](lane)
        os.ftruncate(fd, 0)
        for step in steps[cut:]:
            with contextlib.suppress(ValueError):  # what was taken by then decides what there is to do
                STEPS[step](lane)
        if lane.count:  # taken, and nothing done with it yet
            lane.complete_error(b"why")
        assert poller.next(8) is lane
        assert (lane.op, lane.count, lane.fault) == (0, 0, TRUNCATED)
        assert poller.take(8) is None  # once
        heap.close()


@pytest.mark.parametrize("spin_ns", [0, -1])
def test_a_truncated_lane_among_others_is_handed_out_and_the_others_are_served(fd, spin_ns):
    """Also before the first submission, when its ring cannot be told from an empty one."""
    heap, other = HeapLane(fd=fd), HeapLane(doorbell=True)
    poller = _core.Poller(spin_ns)
    poller.add(heap.lane)
    poller.add(other.lane)
    os.ftruncate(fd, 4096)  # the header is there still, the rings are not
    assert poller.next(8) is heap.lane
    assert heap.lane.fault == TRUNCATED
    other.slots[1] = 5
    other.submit(1)
    assert poller.next(8) is other.lane
    other.lane.complete_echo()
    assert [done["checksum"] for done in other.taken()] == [_core.checksum(bytes([5]) * 3072)]
    poller.remove(heap.lane)
    poller.remove(other.lane)
    heap.close()
    other.close()


# ---- giving memory back


@pytest.mark.parametrize(
    ("sealed", "size"), [(True, None), (False, None), (False, 0), (False, mmap.PAGESIZE), (False, 3 * mmap.PAGESIZE)]
)
def test_a_closed_segment_takes_no_memory_whoever_holds_it(sealed, size):
    """Also one that was truncated to `size` before; one that is sealed cannot be."""
    segment = Segment(image_spec(64), sealed=sealed)
    fd, theirs = os.dup(segment.fd), mmap.mmap(segment.fd, segment.size)
    theirs[-1] = 7
    assert held(fd) >= segment.size
    if size is not None:
        os.ftruncate(fd, size)
        assert segment.inputs()[0].sum() == 0  # touched: zeros lie over the server's own mapping
    segment.close()
    assert held(fd) == 0
    if size is None:
        assert theirs[:] == bytes(segment.size)
    theirs.close()
    os.close(fd)


@pytest.mark.parametrize(
    ("reason", "stays"),
    [(None, False), (Reason.PROTOCOL, False), (Reason.DRAINING, True), (Reason.MOVED, True), (Reason.INTERNAL, True)],
)
def test_a_session_leaves_its_memory_to_the_client_only_where_the_server_ends(sealed, reason, stays):
    ours, theirs = socket.socketpair()
    session = Session(ours, Peer(1, 1), image_spec(64), sealed=sealed)
    fd, size = os.dup(session.segment.fd), session.segment.size
    session.close(reason, "why")
    assert held(fd) == (size if stays else 0)
    os.close(fd)
    theirs.close()


def test_a_view_that_a_model_keeps_does_not_keep_the_memory(sealed):
    segment = Segment(image_spec(64), sealed=sealed)
    fd, kept = os.dup(segment.fd), segment.inputs()[0]
    with pytest.raises(BufferError):
        segment.close()
    assert held(fd) == 0
    assert not kept.any()
    os.close(fd)


@pytest.mark.parametrize("seal", [0x8, 0x10, 0x1], ids=["write", "future write", "seal"])
def test_no_peer_can_seal_a_segment_against_its_server(sealed, seal):
    import fcntl

    segment = Segment(image_spec(64), sealed=sealed)
    with pytest.raises(PermissionError):
        fcntl.fcntl(segment.fd, fcntl.F_ADD_SEALS, seal)
    segment.close()


def test_slots_are_read_only_for_whoever_gets_them_as_an_array():
    segment = Segment(image_spec(64))
    pixels = segment.inputs()[0][3:5]
    with pytest.raises(ValueError, match="read-only"):
        pixels[:] = 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        pixels.flags.writeable = True
    del pixels
    segment.close()


# ---- every other SIGBUS

FOREIGN = """
import faulthandler, mmap, os, resource
from shm_server import _core
from shm_server.session.segment import allot

resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))

def guarded():
    fd = allot(32768, False)
    mapping = _core.Mapping(fd, 32768)
    os.ftruncate(fd, 0)
    assert bytes(mapping) == bytes(32768) and mapping.broken

{before}
guarded()
{after}
guarded()
print("guarded", flush=True)
foreign = os.memfd_create("foreign")
os.ftruncate(foreign, 32768)
theirs = mmap.mmap(foreign, 32768)
os.ftruncate(foreign, 0)
theirs[0]
"""


@pytest.mark.parametrize(
    ("before", "after", "tracebacks"),
    [
        ("", "", 0),
        ("faulthandler.enable()", "", 1),
        ("", "faulthandler.enable()", 1),
        ("faulthandler.enable()", "faulthandler.disable()", 0),
        ("", "for _ in range(20): faulthandler.enable(); guarded(); faulthandler.disable(); guarded()", 0),
        ("", "for _ in range(20): faulthandler.disable(); guarded(); faulthandler.enable(); guarded()", 1),
    ],
)
def test_another_sigbus_ends_the_process_as_before_with_faulthandlers_traceback_once(before, after, tracebacks):
    script = FOREIGN.format(before=before, after=after)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "guarded\n", done.stderr
    assert done.stderr.count("Fatal Python error: Bus error") == tracebacks
    assert done.stderr.count("in <module>") == tracebacks
    assert done.returncode == -signal.SIGBUS, done
