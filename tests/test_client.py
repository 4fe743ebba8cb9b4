"""shm_server.Client and real servers: what goes in and out, who waits for whom, and what is told when something
fails.
"""

import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, children, ended, until

from shm_server import Client, _core
from shm_server.client import errors, handshake
from shm_server.layout import Protocol
from shm_server.session.doorbell import LaneRequest

STUBS = ROOT / "tests" / "stub_models.py"


@pytest.fixture
def serve(start, tmp_path):
    """serve(NAME, FILE) starts a model of stub_models.py, and returns the server and a client of it."""
    clients = []

    def _serve(name: str, *arguments: str, **options):
        socket = tmp_path / "sock"
        server = start(command=[sys.executable, str(STUBS), name, str(socket), *arguments])
        clients.append(Client(str(socket), **options))
        return server, clients[-1]

    yield _serve
    for client in clients:
        client.close()


@pytest.fixture
def generator(start, tmp_path):
    """A client of a server with the generator of stub_generators.py."""
    stub = str(ROOT / "tests" / "stub_generators.py")
    start(command=[sys.executable, stub, str(tmp_path / "sock"), "computing"])
    with Client(str(tmp_path / "sock")) as client:
        yield client


def requests(model) -> int:
    return model.session().lane.counters()["requests"]


# ---- what goes in and out


def test_one_tensor_goes_in_and_one_comes_out(serve):
    _, client = serve("iris")
    iris = client.model("iris")
    assert (iris.name, iris.version, iris.platform) == ("iris", "1", "python")
    assert str(iris.inputs[0]) == "'x' FP32 [4]"
    x = np.float32([1, 2, 3, 4])
    for given in (x, [1, 2, 3, 4], (1.0, 2, 3, 4), np.float32([0, 1, 0, 2, 0, 3, 0, 4])[1::2]):
        y = iris(given)
        assert (y.dtype, y.tolist()) == (np.float32, [10, 20, 30])
    assert iris(x=x).tolist() == iris.run({"x": x})["y"].tolist() == [10, 20, 30]
    y[:] = 0  # it is ours
    assert client.model()(x).tolist() == [10, 20, 30]


def test_a_leading_dimension_is_a_batch_of_calls_however_many_slots_there_are(serve):
    _, client = serve("iris")
    for slots in (0, 1, 3):
        iris = client.model("iris", slots=slots)
        rows = np.arange(400, dtype=np.float32).reshape(100, 4)
        assert np.array_equal(iris(rows), rows.sum(axis=1)[:, None] * np.float32([1, 2, 3]))
        assert iris(rows[::-7]).shape == (15, 3)
        assert iris(rows[:0]).shape == (0, 3)
        assert iris.session().lane.free == iris.session().lane.slots


def test_several_tensors_go_by_their_names(serve):
    _, client = serve("pair")
    pair = client.model()
    a, b = np.arange(6, dtype=np.int32).reshape(2, 3), np.array([1, -2, 3, -4, 5.5])
    out = pair(a=a, b=b)
    assert list(out) == ["sums", "table", "flag"]
    assert out["sums"].tolist() == [15, 3.5]
    assert out["table"].tolist() == a.T.tolist()
    assert (out["flag"].dtype, out["flag"].tolist()) == (bool, [True])
    many = pair(a=np.stack([a, 2 * a]), b=np.stack([b, -b]))
    assert many["flag"].tolist() == [[True], [False]]
    assert np.array_equal(many["table"][1], 2 * a.T)


def test_a_symbolic_dimension_is_as_large_as_the_inputs_make_it(serve):
    _, client = serve("masked")
    masked = client.model()
    assert masked.bound == 100
    for extent in (1, 7, 100):
        ids = np.arange(extent, dtype=np.int32)
        out = masked(ids=ids, mask=np.ones(extent, np.uint8))
        assert out["squares"].tolist() == (ids * ids).tolist()
        assert out["sum"].tolist() == [ids.sum()]
    out = masked(ids=[[1, 2, 3], [4, 5, 6]], mask=[[1, 1, 0], [0, 1, 1]])
    assert out["squares"].tolist() == [[1, 4, 0], [0, 25, 36]]
    assert client.model(extent=8).bound == 8
    with pytest.raises(errors.WrongShape, match=r"'ids' INT32 \[-1\]: expected 1 to 8 .* got 9"):
        client.model(extent=8)(ids=list(range(9)), mask=[1] * 9)


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        (np.zeros(4), errors.WrongDatatype, "expected float32, got float64"),
        (np.zeros(4, ">f4"), errors.WrongDatatype, "expected float32"),
        (np.float64(1), errors.WrongDatatype, "got float64"),
        (np.zeros(3, np.float32), errors.WrongShape, r"expected (4,), or a batch (n, 4), got (3,)"),
        (np.zeros((2, 2, 4), np.float32), errors.WrongShape, r"got (2, 2, 4)"),
        (np.zeros((4, 4), np.float32).reshape(2, 8), errors.WrongShape, r"got (2, 8)"),
        ([1, 2, 3], errors.WrongShape, "got (3,)"),
        ([[1, 2], [3]], errors.WrongShape, "'x' FP32 [4]"),
        (["1", "2", "3", "4"], errors.WrongDatatype, "'x' FP32 [4]"),
        ([1j, 2, 3, 4], errors.WrongDatatype, "got complex128"),
        ([1e300, 2, 3, 4], errors.WrongDatatype, "numbers that fit"),
        (None, errors.WrongDatatype, "got object"),
        (b"1234", errors.WrongDatatype, "got bytes"),
    ],
)  # fmt: skip
def test_what_does_not_suit_the_signature_is_an_error_before_anything_is_sent(serve, given, kind, said):
    _, client = serve("iris")
    iris = client.model()
    with pytest.raises(kind) as caught:
        iris(given)
    assert said in str(caught.value)
    assert caught.value.not_run
    assert isinstance(caught.value, ValueError)
    for wrong in ({}, {"y": given}, {"x": given, "z": given}):
        with pytest.raises(errors.TensorError, match="expected the inputs 'x', got"):
            iris(**wrong)
    with pytest.raises(errors.TensorError, match="expected one argument"):
        iris([1] * 4, [1] * 4)
    assert requests(iris) == 0
    assert iris([1] * 4).tolist() == [4, 8, 12]


def test_whole_numbers_are_taken_where_they_fit(serve):
    _, client = serve("pair")
    pair = client.model()
    b = [0.0] * 5
    assert pair(a=[[1, 2, 3], [True, False, 2**31 - 1]], b=[1, 2, 3, 4, 5])["sums"].tolist() == [2**31 + 6, 15]
    for a, said in (
        ([[1.0] * 3] * 2, "expected INT32, got float64"),
        ([[2**31] * 3] * 2, "expected -2147483648 to 2147483647"),
        ([[2**70] * 3] * 2, "got object"),
    ):
        with pytest.raises(errors.WrongDatatype, match=said):
            pair(a=a, b=b)
    with pytest.raises(errors.WrongShape, match="expected one row, as before, got a batch of 2"):
        pair(a=[[1] * 3] * 2, b=[b, b])
    assert requests(pair) == 1


def test_a_lease_is_memory_that_the_model_reads_and_writes(serve):
    _, client = serve("iris")
    iris = client.model()
    with iris.reserve() as call:
        x = call["x"]
        assert np.shares_memory(x, iris.session().inputs[0])
        for factor in (1, 2):
            x[:] = np.float32([1, 2, 3, 4]) * factor
            call.run()
            assert call["y"].tolist() == [10 * factor, 20 * factor, 30 * factor]
            assert call.timing.batch == 1
        with pytest.raises(ValueError, match="read-only"):
            call["y"][0] = 1
        call["x"] = [1, 1, 1, 1]
        call.run(timeout=60)
        assert call["y"].tolist() == [4, 8, 12]
        assert call.echo() == _core.checksum(np.ones(4, np.float32))
        with pytest.raises(errors.TensorError, match="no tensor 'z' in 'iris'"):
            call["z"]
        with pytest.raises(errors.WrongShape, match="an extent of 1, where no dimension is symbolic"):
            call.extent = 1
        with pytest.raises(errors.WrongShape, match="a batch of 2"):
            call["x"] = [[1] * 4] * 2
    for use in (call.run, call.echo, lambda: call["x"], lambda: call.__setitem__("x", x)):
        with pytest.raises(errors.SlotReleased):
            use()
    call.release()
    x[:] = 0  # memory still, of nobody
    assert iris.session().lane.free == iris.session().lane.slots


def test_a_lease_has_an_extent(serve):
    _, client = serve("masked")
    with client.model().reserve() as call:
        assert (call.extent, call["ids"].shape) == (100, (100,))
        call.extent = 3
        call["ids"][:], call["mask"][:] = [1, 2, 3], 1
        call.run()
        assert call["squares"].tolist() == [1, 4, 9]
        call["ids"] = [5, 6]
        call.run()
        assert (call["squares"].tolist(), call["sum"].tolist()) == ([25, 36], [11])
        with pytest.raises(errors.WrongShape, match="an extent of 101, expected 1 to 100"):
            call.extent = 101


def test_an_echo_answers_with_the_checksum_of_the_inputs(serve):
    _, client = serve("pair")
    a, b = np.arange(6, dtype=np.int32).reshape(2, 3), np.arange(5.0)
    assert client.echo(a=a, b=b) == _core.checksum(a.tobytes() + b.tobytes())
    with pytest.raises(errors.WrongShape, match="an echo takes one row"):
        client.echo(a=a[None], b=b[None])


# ---- what fails


def test_a_models_error_is_that_calls_and_says_what_the_model_said(serve):
    _, client = serve("iris")
    iris = client.model()
    with pytest.raises(errors.ModelError, match="not finite"):
        iris([-1, 0, 0, 0])
    with pytest.raises(errors.ModelError, match=r"row 2 of 3: the model failed: .*not finite"):
        iris([[1, 0, 0, 0], [2, 0, 0, 0], [-1, 0, 0, 0]])
    assert iris([1, 0, 0, 0]).tolist() == [1, 2, 3]
    assert iris.session().lane.free == iris.session().lane.slots


def test_no_program_that_is_started_inherits_the_segment(echo_server):
    request = LaneRequest(Protocol.CALL)
    sock, welcome = handshake.dial(handshake.Address(str(echo_server.socket)), request)
    with sock:
        assert not os.get_inheritable(welcome.fd)
        os.close(welcome.fd)


def test_a_model_that_there_is_not_is_refused_with_those_that_there_are(serve):
    _, client = serve("iris")
    for _ in range(2):
        with pytest.raises(errors.NoSuchModel, match="there is no call model 'cat': there is 'iris'") as caught:
            client.model("cat")
        assert caught.value.not_run
    with pytest.raises(errors.NoSuchModel, match="no stream model"):
        client.stream("text")
    (info,) = client.models()
    assert (info.name, info.protocol, info.state, info.inputs[0].shape) == ("iris", "call", "ready", (4,))
    assert client.health() == {"classifier": "up"}
    with pytest.raises(ValueError, match="a model's name of 256 bytes"):
        client.model("x" * 256)


def test_where_nobody_listens_is_an_error_that_says_what_to_do(tmp_path):
    with Client(str(tmp_path / "sock")) as client:
        for use in (client.model, client.models, lambda: client.stream("x"), lambda: client.echo([1])):
            with pytest.raises(errors.ServerGone, match="is `shm-server serve` running") as caught:
                use()
            assert caught.value.not_run
    with pytest.raises(errors.Closed):
        client.model()
    with Client("/tmp/" + "x" * 200) as client, pytest.raises(errors.ServerGone, match="too long"):
        client.model()


@pytest.fixture
def busy(serve, tmp_path):
    """A client of a model of two slots that is busy until `open()`; then the call that keeps it so is checked."""
    server, client = serve("gated", str(tmp_path / "gate"))
    gated = client.model(slots=2)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(gated([-1]).tolist()), daemon=True)
    thread.start()
    server.wait_for("in the model")

    def open_gate() -> None:
        (tmp_path / "gate").touch()
        thread.join()
        assert answers == [[-1, 1]]

    yield gated, open_gate
    (tmp_path / "gate").touch()
    thread.join()


def test_a_time_out_gives_the_call_up_and_its_slot_comes_back_when_the_server_is_through(busy):
    gated, open_gate = busy
    lane = gated.session().lane
    with pytest.raises(errors.DeadlineExceeded, match="did not come in time") as caught:
        gated([1], timeout=0.01)
    assert isinstance(caught.value, TimeoutError)
    assert not caught.value.not_run
    with pytest.raises(errors.DeadlineExceeded, match="no slot of 2 was free in time") as caught:
        gated([2], timeout=0.01)
    assert caught.value.not_run
    assert (lane.free, lane.in_flight) == (0, 2)
    open_gate()
    assert gated([3]).tolist()[0] == 3
    assert gated([[3], [4], [5]])[:, 0].tolist() == [3, 4, 5]
    assert (lane.free, lane.in_flight) == (2, 0)


def test_a_lease_whose_call_was_given_up_is_over(busy):
    gated, open_gate = busy
    with gated.reserve() as call:
        call["x"] = [1]
        with pytest.raises(errors.DeadlineExceeded):
            call.run(timeout=0.01)
        with pytest.raises(errors.SlotReleased):
            call.run()
    open_gate()
    assert gated([2]).tolist() == [2, 1]


def test_a_worker_that_is_killed_fails_the_call_in_flight_and_the_next_one_finds_its_successor(start, tmp_path):
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    server = start("stub_models:mortal", prefix=("env", f"PYTHONPATH={path}"))
    with Client(str(server.socket)) as client:
        mortal = client.model()
        assert mortal([5]).tolist() == [5]
        (worker,) = children(server.pid)
        with pytest.raises(errors.ServerGone) as caught:
            mortal([-9])
        assert not caught.value.not_run
        until(lambda: ended(worker))

        def again() -> bool:
            with contextlib.suppress(errors.ServerGone):  # nobody has the model now, or it is being started
                return mortal([6]).tolist() == [6]
            return False

        until(again)
        assert mortal.dials == 2


def test_a_server_that_was_started_again_is_found_by_the_next_call(start, tmp_path):
    command = [sys.executable, str(STUBS), "doubled", str(tmp_path / "sock")]
    server = start(command=command)
    with Client(str(tmp_path / "sock")) as client:
        doubled = client.model()
        with doubled.reserve() as call:
            server.stop()
            with pytest.raises(errors.ServerGone):
                doubled([1])
            with pytest.raises(errors.ServerGone) as caught:
                call.run()
            assert caught.value.not_run
            call["x"][:] = 1  # memory as long as it is leased
        start(command=command)
        assert doubled([[1], [2]]).tolist() == [[2], [4]]
        assert doubled.dials == 2


def test_another_signature_behind_the_name_is_an_error_and_not_a_wrong_answer(start, tmp_path):
    def run(name: str):
        return start(command=[sys.executable, str(STUBS), name, str(tmp_path / "sock")])

    server = run("doubled")
    with Client(str(tmp_path / "sock")) as client:
        doubled = client.model()
        server.stop()
        run("halves")
        with pytest.raises(errors.WrongSignature, match=r"expected 'doubled' \('x' INT32 \[1\]\)"):
            doubled([1])
        assert client.model()([1.5, 2]).dtype == np.float16


def test_closing_fails_the_calls_of_other_threads(serve, tmp_path):
    server, client = serve("gated", str(tmp_path / "gate"))
    gated = client.model(slots=2)
    failures = []

    def call(value: int) -> None:
        try:
            gated([value])
        except errors.Closed as closed:
            failures.append(closed)

    values = (-1, 1, 2, 3)  # two of them wait for a slot
    threads = [threading.Thread(target=call, args=(value,), daemon=True) for value in values]
    for thread in threads:
        thread.start()
    server.wait_for("in the model")
    until(lambda: not gated.session().lane.free)
    client.close()
    for thread in threads:
        thread.join()
    assert len(failures) == 4
    client.close()
    with pytest.raises(errors.Closed):
        gated([1])
    (tmp_path / "gate").touch()


def test_ctrl_c_ends_a_call_that_waits(serve, tmp_path):
    server, client = serve("gated", str(tmp_path / "gate"))
    script = f"""
import shm_server
gated = shm_server.Client({client.address.path!r}).model()
try:
    gated([-1])
except KeyboardInterrupt:
    assert gated.session().lane.in_flight == 1
    print("interrupted")
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    server.wait_for("in the model")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "interrupted\n"
    assert process.returncode == 0
    (tmp_path / "gate").touch()


# ---- many threads, and processes


@pytest.mark.parametrize("spin", [0, 100e-6])
def test_sixteen_threads_share_a_lane_of_few_slots_and_each_gets_its_own_answers(serve, spin):
    _, client = serve("pair", spin=spin)
    pair = client.model(slots=5)
    seed = int(os.environ.get("SHM_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print("seed", seed)
    wrong = []

    def work(number: int) -> None:
        draw = np.random.default_rng([seed, number])
        try:
            for turn in range(60):
                count = int(draw.integers(1, 9))
                a = draw.integers(-(2**20), 2**20, (count, 2, 3), np.int32)
                b = draw.standard_normal((count, 5))
                if turn % 3 == 0:
                    with pair.reserve() as call:
                        call["a"], call["b"] = a[0], b[0]
                        call.run()
                        out = {name: call[name][None] for name in ("sums", "table", "flag")}
                        check(a[:1], b[:1], out)
                elif turn % 3 == 1:
                    check(a, b, pair(a=a, b=b))
                else:
                    assert pair.echo(a=a[0], b=b[0]) == _core.checksum(a[0].tobytes() + b[0].tobytes())
        except BaseException as error:
            wrong.append(error)
            raise

    def check(a, b, out) -> None:
        assert np.array_equal(out["table"], a.transpose(0, 2, 1))
        assert np.array_equal(out["sums"], np.stack([a.sum(axis=(1, 2)), b.sum(axis=1)], axis=1))
        assert np.array_equal(out["flag"][:, 0], b.sum(axis=1) > 0)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    lane = pair.session().lane
    assert (lane.free, lane.in_flight) == (5, 0)


def test_a_forked_child_dials_its_own_session_and_leaves_the_parents_alone(serve):
    _, client = serve("doubled")
    doubled = client.model()
    call = doubled.reserve()
    assert doubled([1]).tolist() == [2]
    pid = os.fork()
    if not pid:
        try:
            with pytest.raises(errors.ServerGone, match="forked child"):
                call.run()
            assert doubled([21]).tolist() == [42]
            client.close()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    call["x"] = [4]
    call.run()
    assert call["y"].tolist() == [8]
    assert doubled.dials == 1


def test_a_client_that_nobody_refers_to_lets_go_of_socket_and_memory(serve):
    _, client = serve("doubled")

    def use() -> None:
        other = Client(client.address.path)
        assert other.model()([1]).tolist() == [2]

    gc.collect()  # of the tests before
    before = len(os.listdir("/proc/self/fd")), Path("/proc/self/maps").read_text().count("shm-server-")
    use()
    assert (len(os.listdir("/proc/self/fd")), Path("/proc/self/maps").read_text().count("shm-server-")) == before


# ---- prompts


def test_a_prompts_text_comes_in_pieces_and_leaving_the_loop_cancels_the_rest(generator, tmp_path):
    with generator.stream("say:eins say:zwei say:drei") as pieces:
        assert "".join(pieces) == "einszweidrei"
    assert not pieces.truncated
    assert pieces.model_ns > 0
    gate = tmp_path / "gate"
    pieces = generator.stream(f"say:begun until:{gate} say:never")
    assert next(pieces) == "begun"
    lane = pieces._session.lane
    pieces.close()
    assert list(pieces) == []
    # There is no file: that one has ended. What came meanwhile is consumed by the next call that waits.
    until(lambda: "".join(generator.stream("say:next")) == "next" and not lane.in_flight)


def test_the_sampling_of_a_prompt_reaches_the_generator(generator):
    said = "".join(generator.stream("params", steps=7, temperature=0.5, top_k=3, seed=2**64 - 1))
    assert said == f"7 0.5 3 {2**64 - 1}"
    assert "".join(generator.stream("params")).startswith("128 ")
    for wrong in (
        {"steps": 0}, {"steps": 1.0}, {"steps": 2**32}, {"temperature": -1}, {"temperature": float("nan")},
        {"top_k": -1}, {"seed": 2**64}, {"seed": True},
    ):  # fmt: skip
        with pytest.raises(errors.InvalidRequest, match="expected"):
            generator.stream("params", **wrong)
    with pytest.raises(errors.InvalidRequest, match="no text"):
        generator.stream("\ud800")
    with pytest.raises(errors.InvalidRequest, match="the slots of this client take"):
        generator.stream("x" * (1 << 20))


@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        ("fail:Unavailable", errors.Unavailable),
        ("fail:Unauthorized", errors.Unauthorized),
        ("fail:RateLimited", errors.RateLimited),
        ("fail:Broken", errors.Broken),
        ("bug", errors.ModelError),
    ],
)
def test_a_prompt_that_fails_keeps_the_text_before_and_says_why(generator, verb, kind):
    pieces = generator.stream(f"say:before {verb}")
    assert next(pieces) == "before"
    with pytest.raises(kind):
        next(pieces)
    assert list(pieces) == []


def test_an_empty_prompt_and_a_late_one_are_errors(generator, tmp_path):
    with pytest.raises(errors.InvalidRequest):
        list(generator.stream(""))
    with pytest.raises(errors.DeadlineExceeded):
        list(generator.stream(f"until:{tmp_path / 'never'}", timeout=0.05))
    assert "".join(generator.stream("say:on")) == "on"


def test_long_text_is_cut_at_the_end_of_the_reply_and_says_so(generator):
    pieces = generator.stream("repeat:" + "é" * 100, steps=1000)
    text = "".join(pieces)
    assert set(text) == {"é"}
    assert pieces.truncated
    assert len("".join(generator.stream("repeat:" + "é" * 100, steps=1000, reply_bytes=200_000))) == 100_000
    with pytest.raises(errors.InvalidRequest, match="a prompt of 65 bytes, the slots of this client take 64"):
        generator.stream("x" * 65, prompt_bytes=64)
    for sizes in ({"prompt_bytes": -1}, {"reply_bytes": 1 << 30}):
        with pytest.raises(ValueError, match="an extent of"):
            generator.stream("x", **sizes)
