"""A server that lies, cheats, stops in the middle or says nothing: the client says so, ends that session and opens the
next.
"""

import asyncio
import contextlib
import os
import socket
import threading
import time

import numpy as np
import pytest
from client import framed
from conftest import until
from fake_server import (
    IRIS,
    PROMPTS,
    FakeServer,
    FakeSession,
    iris_spec,
    metadata,
    prompt_spec,
    refuse,
    serve,
    served,
    until_hung_up,
    welcome,
)  # fmt: skip

from shm_server import AsyncClient, Client, layout
from shm_server.client import errors
from shm_server.layout import REASON_PYTHON_ERROR, Datatype, FrameKind, Protocol, Reason, Status
from shm_server.session.segment import LaneSpec, TensorSpec

X = np.float32([1, 2, 3, 4])
Y = [10, 20, 30]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "sock")


def header(segment, dtype, offset=0):
    return np.frombuffer(segment.memory, dtype, 1, offset)[0]


# ---- the handshake


HEADERS = {
    "magic": ("header", {"magic": 1}),
    "version": ("header", {"layout_major": 3}),
    "epoch": ("header", {"epoch": 7}),
    "features": ("header", {"features_required": 1 << 40}),
    "header of": ("header", {"header_bytes": 8192}),
    "the welcome said": ("header", {"segment_bytes": 4096}),
    "protocol 2, asked for was call": ("lane", None),
    "overlap": ("lane", {"completions_offset": 4096}),
    "not on a page": ("lane", {"messages_offset": 12352}),
    "inside the header": ("tensor", {"offset": 0}),
    "leave the segment": ("tensor", {"offset": 1 << 40}),
    "slots": ("lane", {"slot_count": 0}),
    "entries for": ("lane", {"completion_entries": 2}),
    "rank 9": ("tensor", {"rank": 9}),
    "rows of": ("tensor", {"row_bytes": 128}),
    "datatype 14": ("tensor", {"datatype": 14}),
    "signature": ("tensor", {"datatype": 4}),
}


@pytest.mark.parametrize("said", HEADERS)
def test_a_header_that_lies_is_a_typed_error_and_the_next_session_is_another(path, said):
    struct, fields = HEADERS[said]

    def lying(sock) -> None:
        if fields is None:
            FakeSession(sock, prompt_spec(), PROMPTS)
        else:
            dtype, at = {
                "header": (layout.header, 0),
                "lane": (layout.lane, layout.LANE_OFFSET),
                "tensor": (layout.tensor, layout.TENSORS_OFFSET),
            }[struct]

            def lie(segment) -> None:
                for name, value in fields.items():
                    header(segment, dtype, at)[name] = value

            FakeSession(sock, lie=lie)
        until_hung_up(sock)

    with FakeServer(path, lying, served), Client(path) as client:
        with pytest.raises(errors.ProtocolError, match=said) as caught:
            client.model()
        assert caught.value.not_run
        assert client.model()(X).tolist() == Y


SIGNATURES = [
    None, [], {}, IRIS | {"name": 7}, IRIS | {"inputs": []}, IRIS | {"inputs": {}}, IRIS | {"outputs": IRIS["inputs"]},
    IRIS | {"inputs": IRIS["inputs"] * 2}, IRIS | {"inputs": IRIS["inputs"] * 30},
    *(IRIS | {"inputs": [IRIS["inputs"][0] | change]} for change in (
        {"name": ""}, {"datatype": "FP31"}, {"datatype": "INT32"}, {"shape": [5]}, {"shape": [-1]}, {"shape": 4},
        {"shape": [True]}, {"shape": [4.0]}, {"shape": [[4]]}, {"shape": []}, {"shape": [2, 2]}, {"labels": ["a"] * 4},
        {"labels": "abcd"},
    )),
    IRIS | {"outputs": [IRIS["outputs"][0] | {"labels": ["a", "b"]}]},
    IRIS | {"outputs": [IRIS["outputs"][0] | {"labels": [1, 2, 3]}]},
]  # fmt: skip


@pytest.mark.parametrize("model", SIGNATURES, ids=range(len(SIGNATURES)))
def test_a_signature_that_is_not_that_of_the_tensors_is_a_typed_error(path, model):
    def lying(sock) -> None:
        FakeSession(sock, model=model)
        until_hung_up(sock)

    with FakeServer(path, lying, served), Client(path) as client:
        with pytest.raises(errors.ProtocolError, match="signature"):
            client.model()
        assert client.model()(X).tolist() == Y


def sends(message: bytes, fds: int = 0):
    def behave(sock) -> None:
        file = os.memfd_create("fake")
        os.ftruncate(file, 4096)
        with contextlib.suppress(ConnectionError):
            socket.send_fds(sock, [message], [file] * fds)
        os.close(file)
        until_hung_up(sock)

    return behave


WELCOMES = {
    "magic": sends(framed(FrameKind.WELCOME, b"", magic=7)),
    "a message of 4294967295 bytes": sends(framed(FrameKind.WELCOME, b"", size=2**32 - 1)),
    "a welcome of 0 bytes": sends(framed(FrameKind.WELCOME, b"")),
    "expected welcome": sends(framed(FrameKind.ANSWER, b"{}")),
    "layout major 1": sends(welcome(b"{}", layout_major=1), 1),
    "metadata of 3": sends(welcome(b"{}", metadata_bytes=3), 1),
    "a segment of 4095": sends(welcome(b"{}", segment_bytes=4095), 1),
    "a segment of 1073741825": sends(welcome(b"{}", segment_bytes=2**30 + 1), 1),
    "a file of 4096 bytes": sends(welcome(b"{}", segment_bytes=8192), 1),
    "with 0 descriptors": sends(welcome(b"{}")),
    "with 2 descriptors": sends(welcome(b"{}"), 2),
    "more than 8 descriptors": sends(welcome(b"{}"), 20),
    "no JSON": sends(welcome(b"[" * 60000), 1),
    "no JSON: ": sends(welcome(b"\xff\xfe"), 1),
    "expected an object": sends(welcome(b"[]"), 1),
    "clock": sends(welcome(b"{}", clock=1 << 63), 1),
    "the header begins": sends(welcome(metadata(IRIS)), 1),
}


@pytest.mark.parametrize("said", WELCOMES)
def test_a_welcome_that_breaks_a_rule_is_a_typed_error_and_leaves_nothing_open(path, said):
    with FakeServer(path, WELCOMES[said], served), Client(path) as client:
        with pytest.raises(errors.ProtocolError, match=said):
            client.model()
        until(lambda: not [name for name in open_files() if "memfd:fake" in name], 60)  # the fake has one for a moment
        assert client.model()(X).tolist() == Y


def open_files() -> list[str]:
    names = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
    return names


@pytest.mark.parametrize("begun", [b"", framed(FrameKind.WELCOME, b"x" * 100)[:50]])
def test_a_server_that_says_nothing_or_half_of_it_is_not_waited_for_without_end(path, begun):
    with FakeServer(path, sends(begun) if begun else until_hung_up, until_hung_up, served) as fake:
        with (
            Client(path, patience=0.2) as client,
            pytest.raises(errors.ServerGone, match=r"has said nothing for 0.2 s"),
        ):
            client.model()
        with Client(path) as client:
            with pytest.raises(errors.DeadlineExceeded) as caught:
                client.model(timeout=0.2)
            assert caught.value.not_run
            assert client.model()(X).tolist() == Y
        assert fake.sessions == 3


def test_a_server_that_hangs_up_instead_of_answering_is_gone(path):
    with FakeServer(path, lambda sock: None, served), Client(path) as client:
        with pytest.raises(errors.ServerGone, match="hung up instead of answering"):
            client.model()
        assert client.model()(X).tolist() == Y


REFUSALS = {
    Reason.NO_SUCH_MODEL: errors.NoSuchModel,
    Reason.DRAINING: errors.Draining,
    Reason.STARTING: errors.Starting,
    Reason.FORBIDDEN: errors.Refused,
    Reason.VERSION: errors.Incompatible,
    Reason.FEATURES: errors.Incompatible,
    99: errors.Refused,
}


@pytest.mark.parametrize("reason", REFUSALS, ids=str)
def test_a_refusal_says_the_servers_words_in_one_line(path, reason):
    with FakeServer(path, refuse(reason, "because\nof\x1b[2J that"), served), Client(path) as client:
        with pytest.raises(REFUSALS[reason], match=r"because of\\x1b\[2J that") as caught:
            client.model()
        assert caught.value.not_run
        wanted = getattr(errors, REASON_PYTHON_ERROR.get(reason, "Refused"))
        assert isinstance(caught.value, wanted), "what layout.md has for it"
        assert client.model()(X).tolist() == Y


def test_who_is_told_by_the_old_server_that_another_one_serves_dials_again(path):
    with FakeServer(path, refuse(Reason.MOVED, "over there"), served) as fake, Client(path) as client:
        assert client.model()(X).tolist() == Y
        assert fake.sessions == 2


def test_who_is_sent_on_for_ever_is_told(path):
    with FakeServer(path, *[refuse(Reason.MOVED, "over there")] * 100) as fake, Client(path) as client:
        with pytest.raises(errors.Moved, match="over there") as caught:
            client.model()
        assert caught.value.not_run
        assert fake.sessions < 100


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_server_of_another_user_is_told_nothing(open_folder):
    """In a process of its own, since a user is a process's."""
    path = str(open_folder / "sock")
    with FakeServer(path, served) as fake:
        os.chmod(path, 0o777)
        pid = os.fork()
        if not pid:
            try:
                os.setuid(65534)
                Client(path).model()  # root's is trusted
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert fake.sessions == 1
    os.unlink(path)
    name = f"\0shm-server-foreign-{os.getpid()}"
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        os.setuid(65534)
        with socket.socket(socket.AF_UNIX) as listening:
            os.chdir("/")
            listening.bind(name)
            listening.listen()
            os.write(ready[1], b"x")
            os.read(done[0], 1)
            listening.accept()[0].recv(1)
        os._exit(0)
    os.read(ready[0], 1)
    try:
        with pytest.raises(errors.ForeignServer, match="runs as user 65534, neither as this one") as caught:
            Client(name).model()
        assert (caught.value.user, caught.value.not_run) == (65534, True)
        assert isinstance(caught.value, PermissionError)
    finally:
        os.write(done[1], b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# ---- the rings


COMPLETIONS = {
    "turn: neither": {"turn": 5},
    "slot: out of range": {"slot": 4},
    "slot: not in flight": {"slot": 3},
    "request_id": {"request_id": 99},
    "status: not one": {"status": 4},
    "status: not one ": {"status": 12},
    "extent: beyond": {"extent": 1},
    "message: longer": {"status": 3, "message_bytes": 257},
}


@pytest.mark.parametrize("said", COMPLETIONS)
@pytest.mark.parametrize("spin", [0, 1e-4])
def test_a_completion_that_breaks_a_rule_ends_that_session_and_every_call_in_it(path, said, spin):
    def lying(sock) -> None:
        session = FakeSession(sock)
        serving = [session.submission(), session.submission()]
        session.complete(serving[0], **COMPLETIONS[said])
        until_hung_up(sock)

    with FakeServer(path, lying, served), Client(path, spin=spin) as client:
        iris, failures = client.model(), []

        def call() -> None:
            try:
                iris(X)
            except errors.ProtocolError as error:
                failures.append(error)

        other = threading.Thread(target=call, daemon=True)
        other.start()
        call()
        other.join()
        assert len(failures) == 2
        assert all(said.strip() in str(error) and not error.not_run for error in failures)
        assert iris(X).tolist() == Y
        assert iris.dials == 2


def test_a_completion_twice_is_one_too_many(path):
    def lying(sock) -> None:
        session = FakeSession(sock)
        got = session.submission()
        session.complete(got)
        session.complete(got)
        until_hung_up(sock)

    with FakeServer(path, lying, served), Client(path) as client:
        iris = client.model()
        with contextlib.suppress(errors.ServerGone):  # the second may come before the first is looked at
            iris(X)
        with contextlib.suppress(errors.ServerGone):
            iris(X)
        assert iris(X).tolist() == Y


@pytest.mark.parametrize("spin", [0, 1e-4])
def test_memory_that_is_truncated_under_a_call_is_an_error_and_no_crash(path, spin):
    def cruel(sock) -> None:
        session = FakeSession(sock)
        session.submission()
        os.ftruncate(session.segment.fd, 0)
        session.ring()
        until_hung_up(sock)

    with FakeServer(path, cruel, served), Client(path, spin=spin) as client:
        iris = client.model()
        with pytest.raises(errors.ServerGone, match="truncated"):
            iris(X)
        assert iris(X).tolist() == Y


def test_memory_that_is_truncated_under_a_lease_reads_as_zeros_and_the_end_of_the_block_says_so(path):
    truncate, truncated = threading.Event(), threading.Event()

    def cruel(sock) -> None:
        session = FakeSession(sock)
        session.complete(session.submission())
        truncate.wait()
        os.ftruncate(session.segment.fd, 0)
        truncated.set()
        until_hung_up(sock)

    with FakeServer(path, cruel, served), Client(path) as client:
        iris = client.model()
        call = iris.reserve().__enter__()
        call.run()
        truncate.set()
        truncated.wait()
        assert call["y"].tolist() == [0, 0, 0]
        call["x"][:] = X
        with pytest.raises(errors.ServerGone, match="truncated"):
            call.__exit__(None, None, None)
        assert iris(X).tolist() == Y


def test_bells_without_end_wake_but_never_end_a_wait_for_an_answer(path):
    def noisy(sock) -> None:
        FakeSession(sock)
        with contextlib.suppress(OSError):
            while True:
                sock.send(bytes([layout.BELL]) * 4096)

    with FakeServer(path, noisy), Client(path) as client, pytest.raises(errors.DeadlineExceeded):
        client.model()(X, timeout=0.2)


GOODBYES = {
    "magic": b"\x07" * 16,
    "a message of kind 2 after the handshake": framed(FrameKind.WELCOME, b"x" * 60000),
    "a message of 65537 bytes": framed(FrameKind.GOODBYE, b"", size=65537),
    "a reason of 3 bytes": framed(FrameKind.GOODBYE, b"abc"),
}


@pytest.mark.parametrize("said", GOODBYES)
def test_what_is_no_bell_and_no_goodbye_ends_the_session(path, said):
    def rude(sock) -> None:
        session = FakeSession(sock)
        session.submission()
        with contextlib.suppress(OSError):
            sock.sendall(bytes([layout.BELL]) * 3 + GOODBYES[said])
        until_hung_up(sock)

    with FakeServer(path, rude, served), Client(path) as client:
        iris = client.model()
        with pytest.raises(errors.ProtocolError, match=said):
            iris(X)
        assert iris(X).tolist() == Y


@pytest.mark.parametrize("rest", [b"", framed(FrameKind.GOODBYE, b"\0" * 8)[:20]], ids=["nothing", "half a goodbye"])
def test_a_server_that_dies_in_a_call_fails_it(path, rest):
    def dying(sock) -> None:
        FakeSession(sock).submission()
        sock.sendall(rest)

    with FakeServer(path, dying, served), Client(path) as client:
        iris = client.model()
        with pytest.raises(errors.ServerGone) as caught:
            iris(X)
        assert not caught.value.not_run
        assert iris(X).tolist() == Y


def test_an_answer_counts_although_the_server_is_gone_by_then(path):
    def dying(sock) -> None:
        session = FakeSession(sock)
        got = session.submission()
        session.segment.outputs()[0][got["slot"]] = Y
        session.complete(got)
        session.goodbye(Reason.DRAINING)

    with FakeServer(path, dying, served) as fake, Client(path) as client:
        iris = client.model()
        assert iris(X).tolist() == Y
        fake.wait_for_end(0)
        time.sleep(0.002)  # longer than a lane counts as one in use: the next call looks at the doorbell first
        assert iris(X).tolist() == Y
        assert iris.dials == 2


def test_a_bool_is_true_or_false_whatever_byte_a_server_writes(path):
    spec = LaneSpec(Protocol.CALL, 4, iris_spec().inputs, (TensorSpec(Datatype.BOOL, np.dtype(bool), (3,)),))
    model = IRIS | {"outputs": [{"name": "y", "datatype": "BOOL", "shape": [3]}]}

    def odd(sock) -> None:
        session = FakeSession(sock, spec, model)
        while (got := session.submission()) is not None:
            session.segment.outputs()[0].view(np.uint8)[got["slot"]] = [0, 1, 254]
            session.complete(got)

    with FakeServer(path, odd), Client(path) as client:
        iris = client.model()
        with iris.reserve() as call:
            call.run()
            for y in (iris(X), iris(X[None])[0], call["y"]):
                assert y.view(np.uint8).tolist() == [0, 1, 1]


# ---- a model that moves


def moves(answered: int = 0):
    """Takes calls, answers as many of them, and says that the model has moved once there is one more."""

    def behave(sock) -> None:
        session = FakeSession(sock)
        for _ in range(answered):
            got = session.submission()
            session.segment.outputs()[0][got["slot"]] = Y
            session.complete(got)
        session.submission()
        session.goodbye(Reason.MOVED, "version 8 is up")

    return behave


@pytest.mark.parametrize("answered", [0, 2])
def test_a_call_that_a_moving_model_did_not_take_is_made_again(path, answered):
    with FakeServer(path, moves(answered), moves(), served) as fake, Client(path) as client:
        iris = client.model()
        for _ in range(answered + 1):
            assert iris(X).tolist() == Y
        assert fake.sessions == iris.dials == 3


def test_a_batch_of_which_a_moving_model_took_a_part_is_run_whole_and_once(path):
    taken = []

    def halfway(sock) -> None:
        session = FakeSession(sock, iris_spec(4))
        for i in range(4):
            got = session.submission()
            if i % 2:
                taken.append(got["request_id"])
                session.segment.outputs()[0][got["slot"]] = [i, i, i]
                session.complete(got)
        session.goodbye(Reason.MOVED)

    with FakeServer(path, halfway, served), Client(path) as client:
        rows = np.arange(24, dtype=np.float32).reshape(6, 4)
        wanted = rows.sum(axis=1)[:, None] * np.float32([1, 2, 3])
        wanted[[1, 3]] = [[1] * 3, [3] * 3]
        assert np.array_equal(client.model()(rows), wanted)
        assert len(taken) == 2


def test_a_lease_of_a_model_that_has_moved_is_run_in_the_next_session(path):
    with FakeServer(path, moves(), served), Client(path) as client:
        iris = client.model()
        with iris.reserve() as call:
            x = call["x"]
            for factor in (1, 2):
                x[:] = X * factor
                call.run()
                assert call["y"].tolist() == [10 * factor, 20 * factor, 30 * factor]
        assert iris.dials == 2
        assert iris(X).tolist() == Y


def run_leased(iris) -> list:
    with iris.reserve() as call:
        call["x"] = X
        call.run()
        return call["y"].tolist()


@pytest.mark.parametrize("reason", [Reason.MOVED, Reason.INTERNAL])
@pytest.mark.parametrize(
    "use", [lambda iris: iris(X).tolist(), lambda iris: iris(np.stack([X, X]))[1].tolist(), run_leased], ids=range(3)
)
def test_a_goodbye_that_waits_in_the_socket_is_read_before_the_next_call(path, reason, use):
    said = threading.Event()

    def moving(sock) -> None:
        session = FakeSession(sock)
        got = session.submission()
        session.segment.outputs()[0][got["slot"]] = Y
        session.complete(got)
        session.goodbye(reason)
        said.set()

    with FakeServer(path, moving, served), Client(path) as client:
        iris = client.model()
        assert iris(X).tolist() == Y
        said.wait()
        time.sleep(0.002)  # longer than a lane counts as one in use, whose doorbell is not looked at
        assert use(iris) == Y
        assert iris.dials == 2


@pytest.mark.parametrize("use", [lambda iris: iris(X), lambda iris: iris(X[None]), run_leased], ids=range(3))
def test_a_model_that_always_moves_is_an_error_at_last(path, use):
    with FakeServer(path, moves()) as fake, Client(path) as client:
        iris = client.model()
        with pytest.raises(errors.Moved, match="version 8 is up") as caught:
            use(iris)
        assert caught.value.not_run
        assert fake.sessions > 10


def test_a_model_that_comes_back_with_other_tensors_is_an_error(path):
    def other(sock) -> None:
        model = IRIS | {"inputs": [IRIS["inputs"][0] | {"name": "z"}]}
        serve(FakeSession(sock, model=model))

    with FakeServer(path, moves(), other), Client(path) as client:
        iris = client.model()
        with pytest.raises(errors.WrongSignature, match=r"the server has 'iris' \('z'"):
            iris(X)


# ---- prompts


def prompts(*answers):
    """For each prompt a function of the session and its submission."""

    def behave(sock) -> None:
        session = FakeSession(sock, prompt_spec(), PROMPTS)
        for answer in answers:
            if (got := session.submission()) is not None:
                answer(session, got)
        until_hung_up(sock)

    return behave


def says(text: bytes, status: int = Status.OK, extent: int | None = None, **fields):
    def answer(session, got) -> None:
        session.segment.outputs()[0][got["slot"], : len(text)] = np.frombuffer(text, np.uint8)
        session.complete(got, status=status, extent=len(text) if extent is None else extent, **fields)

    return answer


def grows(progress: int, final: int | None = None):
    """`final` comes when the client has taken the text before."""

    def answer(session, got) -> None:
        lane, slot = session.segment.plan.lane, int(got["slot"])
        at = int(lane["progress_offset"]) + slot * layout.progress.itemsize
        header(session.segment, layout.progress, at)["extent"] = progress
        session.complete(got, status=Status.MORE, extent=1)
        if final is not None:
            at = int(lane["controls_offset"]) + slot * layout.control.itemsize
            until(lambda: header(session.segment, layout.control, at)["acknowledged"])
            session.complete(got, extent=final)

    return answer


TEXTS = {
    "text: the reply of slot 0 is no UTF-8": says(b"\xff\xfe"),
    "extent: beyond": says(b"", extent=257),
    "extent: slot 0 has 257 bytes": grows(257),
    "extent: slot 0 has 1 bytes of text after 2": grows(2, 1),
    "status: a prompt that nobody cancelled": says(b"", Status.CANCELLED),
    "status: not one": says(b"", 12),
}


@pytest.mark.parametrize("said", TEXTS)
def test_text_that_breaks_a_rule_ends_the_session(path, said):
    with FakeServer(path, prompts(TEXTS[said]), prompts(says(b"good"))), Client(path) as client:
        with pytest.raises(errors.ProtocolError, match=said):
            list(client.stream("x"))
        assert "".join(client.stream("x")) == "good"


def test_a_prompt_that_a_moving_model_did_not_begin_is_made_again(path):
    def moving(session, got) -> None:
        session.goodbye(Reason.MOVED)

    with FakeServer(path, prompts(moving), prompts(says(b"there"))), Client(path) as client:
        assert "".join(client.stream("x")) == "there"


# ---- an event loop


def test_an_event_loop_is_told_what_threads_are_told(path):
    async def main() -> None:
        async with AsyncClient(path) as client:
            iris = await client.model()
            with pytest.raises(errors.ProtocolError, match="request_id"):
                await iris(X)
            with pytest.raises(errors.ServerGone):
                await asyncio.gather(iris(X), iris(X))
            assert (await iris(X)).tolist() == Y  # which has moved once
            assert (await iris(np.stack([X] * 9)))[:, 0].tolist() == [10] * 9

    def lying(sock) -> None:
        session = FakeSession(sock)
        session.complete(session.submission(), request_id=9)
        until_hung_up(sock)

    def dying(sock) -> None:
        session = FakeSession(sock)
        session.submission()
        session.submission()

    with FakeServer(path, lying, dying, moves(), served):
        asyncio.run(main())
