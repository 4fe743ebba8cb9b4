"""The Open Inference Protocol over gRPC: Triton's own client against the real command, then who means harm."""

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from conftest import ServerProcess, gateways, until, workers
from open_inference import ADD, BYTES_ONLY, MODELS, importing, random, site_command, unused_port
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

import shm_server
from shm_server.gateways.grpc import health, inference, wire
from shm_server.session.question import ask

SERVICE = "inference.GRPCInferenceService"
BAD, TOO_LARGE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
PATIENCE = 120


class Site:
    """A server, and what talks to its gateway."""

    def __init__(self, server: ServerProcess, port: int) -> None:
        self.server, self.port = server, port
        self.triton = triton.InferenceServerClient(f"127.0.0.1:{port}")
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_send_message_length", -1)])

    def raw(self, method: str, data: bytes, **how: object) -> bytes:
        """A message and its answer, as they are."""
        return self.channel.unary_unary(f"/{method}")(data, timeout=PATIENCE, wait_for_ready=True, **how)

    def infer(self, request: service_pb2.ModelInferRequest) -> service_pb2.ModelInferResponse:
        answer = self.raw(f"{SERVICE}/ModelInfer", request.SerializeToString())
        return service_pb2.ModelInferResponse.FromString(answer)

    def live(self) -> bool:
        try:
            return self.triton.is_server_live()
        except InferenceServerException:  # it is not there
            return False

    def close(self) -> None:
        self.triton.close()
        self.channel.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A server with MODELS, and a generator."""
    folder, port = tmp_path_factory.mktemp("site"), unused_port()
    server = ServerProcess(site_command(folder, "--grpc", str(port)), folder / "sock", folder / "log")
    found = Site(server, port)
    yield found
    found.close()
    server.process.kill()
    server.process.wait()


@pytest.fixture
def serve(start, tmp_path):
    """serve(SOURCE, ...): another one."""
    sites = []

    def _serve(*flags: str, prefix: tuple[str, ...] = (), port: int = 0) -> Site:
        port = port or unused_port()
        server = start(*flags, "--grpc", str(port), prefix=(*importing(tmp_path), *prefix))
        sites.append(Site(server, port))
        return sites[-1]

    yield _serve
    for each in sites:
        each.close()


def sockets(pid: int) -> set[str]:
    """That a process has open."""
    found = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(os.readlink(each))
    return {each for each in found if each.startswith("socket:")}


def given(name: str, datatype: str, array: np.ndarray) -> triton.InferInput:
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def number(value: int) -> list[triton.InferInput]:
    return [given("x", "INT32", np.array([[value]], np.int32))]


# -- Triton's client


def test_the_server_is_live_and_ready_and_says_who_it_is(site):
    assert site.triton.is_server_live()
    assert site.triton.is_server_ready()
    said = site.triton.get_server_metadata()
    assert (said.name, said.version) == ("shm-server", shm_server.__version__)


def test_each_model_is_described_with_the_dimension_of_its_rows(site):
    said = site.triton.get_model_metadata("pair")
    assert (said.name, said.versions, said.platform) == ("pair", ["1"], "python")
    assert [(each.name, each.datatype, each.shape) for each in said.inputs] == [
        ("a", "INT32", [-1, 2, 3]),
        ("b", "FP64", [-1, 5]),
    ]
    assert [each.shape for each in site.triton.get_model_metadata("masked", "1").inputs] == [[-1, -1]] * 2
    config = site.triton.get_model_config("masked").config
    assert (config.input[0].name, config.input[0].data_type, config.input[0].dims) == ("ids", 8, [-1])
    assert config.max_batch_size == 65536
    assert site.triton.is_model_ready("pair", "1")


def test_the_index_lists_every_model_and_the_generator(site):
    index = site.triton.get_model_repository_index().models
    assert [(each.name, each.version, each.state) for each in index] == [(name, "1", "READY") for name in MODELS] + [
        ("stub", "1", "READY")
    ]


def contents(tensor: dict, array: np.ndarray) -> service_pb2.InferTensorContents:
    return service_pb2.InferTensorContents(**{inference.CONTENTS[tensor["datatype"]]: array.reshape(-1).tolist()})


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_tritons_client_what_it_gives_ours_in_bytes_and_in_numbers(site, name):
    rng = np.random.default_rng(15)
    said = site.triton.get_model_metadata(name)
    tensors = [{"name": each.name, "datatype": each.datatype, "shape": [*each.shape]} for each in said.inputs]
    arrays = {each["name"]: random(each, rng) for each in tensors}
    with shm_server.Client(str(site.server.socket)) as ours:
        expected = ours.model(name).run(arrays)
    inputs = [given(each["name"], each["datatype"], arrays[each["name"]]) for each in tensors]
    answer = site.triton.infer(name, inputs)
    assert [each.name for each in answer.get_response().outputs] == [*expected]
    for output, array in expected.items():
        assert answer.as_numpy(output).tobytes() == array.tobytes(), output
    if any(each["datatype"] in BYTES_ONLY for each in tensors) or name == "large":
        return
    request = service_pb2.ModelInferRequest(model_name=name)
    for each in tensors:
        array = arrays[each["name"]]
        request.inputs.add(
            name=each["name"], datatype=each["datatype"], shape=array.shape, contents=contents(each, array)
        )
    answer = site.infer(request)
    assert [*answer.raw_output_contents] == [array.tobytes() for array in expected.values()]


def test_the_answer_has_the_outputs_that_were_asked_for_and_the_request_s_id(site):
    rng = np.random.default_rng(4)
    inputs = [given("a", "INT32", rng.integers(0, 9, (3, 2, 3), np.int32)), given("b", "FP64", rng.random((3, 5)))]
    outputs = [triton.InferRequestedOutput("flag"), triton.InferRequestedOutput("sums")]
    answer = site.triton.infer("pair", inputs, model_version="1", outputs=outputs, request_id="seventh")
    response = answer.get_response()
    assert [each.name for each in response.outputs] == ["flag", "sums"]
    assert (response.id, response.model_name, response.model_version) == ("seventh", "pair", "1")
    assert (answer.as_numpy("flag").shape, answer.as_numpy("sums").shape) == ((3, 1), (3, 2))


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_a_packed_request_is_unpacked(site, packing):
    answer = site.triton.infer("doubled", number(21), compression_algorithm=packing)
    assert answer.as_numpy("y") == [[42]]


def test_nan_and_infinity_may_be_numbers_of_a_request(site):
    odd = [float("nan"), float("inf"), -1.0]
    request = service_pb2.ModelInferRequest(model_name="iris")
    request.inputs.add(
        name="x", datatype="FP32", shape=[1, 4], contents=service_pb2.InferTensorContents(fp32_contents=[*odd, 0])
    )
    with pytest.raises(grpc.RpcError) as failed:
        site.infer(request)
    assert failed.value.code() == grpc.StatusCode.INTERNAL
    assert failed.value.details() == "the model failed: the model's output 0 holds numbers that are not finite"


# -- the repository, health


def test_a_load_puts_the_new_version_in_the_old_one_s_place(serve, tmp_path):
    source = tmp_path / "adding.py"
    source.write_text(ADD.format(number=1))
    site = serve("adding:add")
    assert site.triton.infer("add", number(5)).as_numpy("y") == [[6]]
    source.write_text(ADD.format(number=2))
    site.triton.load_model("add")
    answer = site.triton.infer("add", number(5))
    assert (answer.as_numpy("y"), answer.get_response().model_version) == ([[7]], "2")
    source.write_text("1 / 0")
    with pytest.raises(InferenceServerException, match=r"model 'add' was not loaded: .*ZeroDivisionError") as failed:
        site.triton.load_model("add")
    assert failed.value.status() == "StatusCode.INTERNAL"
    assert site.triton.infer("add", number(5)).as_numpy("y") == [[7]]
    site.server.stop()


def test_a_version_that_has_just_come_is_waited_for_until_the_old_one_has_said_so(serve, tmp_path):
    source = tmp_path / "adding.py"
    source.write_text(ADD.format(number=1))
    site = serve("adding:add")
    (worker,) = workers(site.server.pid)
    assert site.triton.infer("add", number(5)).as_numpy("y") == [[6]]
    source.write_text(ADD.format(number=2))
    os.kill(worker, signal.SIGSTOP)  # it says nothing for now
    with ask(str(site.server.socket), "reload add") as asked:
        assert asked.answer[0]["after"] == "2"
    answers = []
    say = lambda result, error: answers.append(error or result)  # noqa: E731
    site.triton.async_infer("add", number(5), callback=say, model_version="2")
    os.kill(worker, signal.SIGCONT)
    until(lambda: answers)
    assert (answers[0].as_numpy("y"), answers[0].get_response().model_version) == ([[7]], "2")


def test_what_the_repository_can_not_do_is_said(site):
    listed = "there is no model 'nobody': there are 'iris', 'pair',"
    for call in (site.triton.load_model, site.triton.unload_model, site.triton.is_model_ready):
        with pytest.raises(InferenceServerException, match=listed) as failed:
            call("nobody")
        assert failed.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException, match="models are not unloaded while the server runs"):
        site.triton.unload_model("iris")
    with pytest.raises(InferenceServerException, match="expected no parameters: a model is loaded again from where"):
        site.triton.load_model("iris", config="{}")


def check(site: Site, service: str) -> int:
    asked = health.protocol.HealthCheckRequest(service=service).SerializeToString()
    return health.protocol.HealthCheckResponse.FromString(site.raw("grpc.health.v1.Health/Check", asked)).status


def test_health_is_that_of_the_server_and_of_each_model(site):
    assert site.raw("grpc.health.v1.Health/Check", b"") == b"\x08\x01"  # field 1 is SERVING
    assert [check(site, name) for name in (SERVICE, "iris", "stub")] == [1, 1, 1]
    with pytest.raises(grpc.RpcError) as failed:
        check(site, "nobody")
    assert failed.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as failed:
        site.raw("grpc.health.v1.Health/Watch", b"")
    assert failed.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_model_that_does_not_answer_is_not_ready_and_a_deadline_ends_a_call_s_wait(serve, tmp_path):
    fifo = tmp_path / "hung"
    os.mkfifo(fifo)
    site = serve("stub_models:hung", "stub_models:iris", "--answer-within", "0.2", prefix=("env", f"HUNG={fifo}"))
    answers = []
    site.triton.async_infer("hung", number(-1), callback=lambda result, error: answers.append(error or result))
    until(lambda: not site.triton.is_model_ready("hung"))
    for how in ({"timeout": 1000}, {"client_timeout": 0.001}):
        with pytest.raises(InferenceServerException) as failed:
            site.triton.infer("hung", number(7), **how)
        assert failed.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert not site.triton.is_server_ready()
    assert [check(site, name) for name in ("", "hung", "iris")] == [2, 2, 1]
    assert site.triton.get_model_repository_index().models[0].state == "UNAVAILABLE"
    fifo.write_bytes(b"")
    until(lambda: answers)
    assert answers[0].as_numpy("y") == [[-1]]
    until(lambda: site.triton.is_server_ready() and site.triton.is_model_ready("hung"))


# -- a life


def test_a_gateway_that_is_killed_is_started_again_at_the_same_address(serve):
    site = serve("stub_models:doubled")
    (first,) = gateways(site.server.pid)
    assert site.triton.infer("doubled", number(21)).as_numpy("y") == [[42]]
    os.kill(first, signal.SIGKILL)
    until(lambda: gateways(site.server.pid) not in ([first], []))
    until(site.live)
    assert site.triton.infer("doubled", number(21)).as_numpy("y") == [[42]]
    site.server.stop()


def test_a_server_that_takes_over_has_the_address_too(serve, tmp_path):
    site = serve("stub_models:doubled")
    assert site.live()
    other = serve("stub_models:doubled", "--takeover", port=site.port)
    site.server.ended()
    until(site.live)
    assert site.triton.infer("doubled", number(21)).as_numpy("y") == [[42]]
    other.server.stop()


def test_a_gateway_that_has_been_taken_over_answers_what_it_has_and_lets_in_nobody(serve, tmp_path):
    fifo = tmp_path / "hung"
    os.mkfifo(fifo)
    site = serve("stub_models:hung", "--answer-within", "0.2", prefix=("env", f"HUNG={fifo}"))
    answers = []
    site.triton.async_infer("hung", number(-1), callback=lambda result, error: answers.append(error or result))
    until(lambda: not site.triton.is_model_ready("hung"))
    (gateway,) = gateways(site.server.pid)
    (listening,) = sockets(gateway) & sockets(site.server.pid)
    other = serve("stub_models:hung", "--takeover", prefix=("env", f"HUNG={fifo}"), port=site.port)
    until(lambda: listening not in sockets(gateway))
    until(site.live)  # a connection to the gateway that leaves is given up by its client with the next call
    assert other.triton.infer("hung", number(7)).as_numpy("y") == [[7]]
    assert not answers
    fifo.write_bytes(b"")
    until(lambda: answers)
    assert answers[0].as_numpy("y") == [[-1]]
    site.server.ended()


def test_a_stop_waits_for_nobody_who_says_nothing(serve):
    site = serve("stub_models:doubled")
    silent = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(50)]
    for each, said in zip(silent, (b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 1000), strict=False):
        each.sendall(said)
    assert site.live()
    site.server.stop()
    for each in silent:
        each.close()


def test_callers_who_hang_up_leave_nothing(site):
    assert site.live()
    (gateway,) = gateways(site.server.pid)
    before = len(sockets(gateway))
    callers = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(50)]
    until(lambda: len(sockets(gateway)) >= before + 2 * len(callers))  # each has one, and two join it to grpcio
    for each in callers:
        each.close()
    until(lambda: len(sockets(gateway)) <= before)


def test_nobody_else_gets_the_same_port(serve, tmp_path):
    site = serve("stub_models:doubled")
    command = site.server.process.args
    other = [word if word != str(site.server.socket) else str(tmp_path / "other") for word in command]
    with pytest.raises(AssertionError, match=f"127.0.0.1:{site.port} is in use by another server"):
        ServerProcess(other, tmp_path / "other", tmp_path / "other.log")
    assert site.live()


# -- who means harm


def iris(change: Callable | None = None) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name="iris")
    each = request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    each.contents.fp32_contents.extend([1, 2, 3, 4])
    if change:
        change(request)
    return request


def in_bytes(*pieces: bytes) -> Callable:
    def change(request: service_pb2.ModelInferRequest) -> None:
        request.inputs[0].ClearField("contents")
        request.raw_input_contents.extend(pieces)

    return change


def shaped(*shape: int) -> Callable:
    return lambda request: request.inputs[0].MergeFrom(service_pb2.ModelInferRequest.InferInputTensor(shape=shape))


def also(change: Callable, other: Callable) -> Callable:
    return lambda request: (change(request), other(request))


def cleared(name: str) -> Callable:
    return lambda request: request.inputs[0].ClearField(name)


def set_to(**fields: object) -> Callable:
    return lambda request: [setattr(request.inputs[0], name, value) for name, value in fields.items()]


def asks(of: object, name: str, **value: object) -> None:
    of.parameters[name].MergeFrom(service_pb2.InferParameter(**value))


HOSTILE = {
    "no inputs": (lambda r: r.ClearField("inputs"), "expected the inputs 'x', got no 'x'"),
    "too many inputs": (lambda r: [r.inputs.add() for _ in range(50)], "inputs: expected at most 24, got 51"),
    "too many outputs": (lambda r: [r.outputs.add() for _ in range(50)], "outputs: expected at most 24, got 50"),
    "too many of anything": (
        lambda r: [r.inputs.add() for _ in range(1000)],
        "no ModelInferRequest: more than 256 fields",
    ),
    "an input twice": (lambda r: r.inputs.append(r.inputs[0]), "input 'x' stands in the request twice"),
    "an unknown input": (set_to(name="z"), "expected the inputs 'x', got 'z'"),
    "a datatype of another kind": (
        set_to(datatype="FP64"),
        "inputs[0]: expected fp64_contents or raw_input_contents for 'FP64', got fp32_contents",
    ),
    "texts": (set_to(datatype="BYTES"), "inputs[0]: expected raw_input_contents for 'BYTES', got fp32_contents"),
    "another datatype in bytes": (
        also(in_bytes(bytes(16)), set_to(datatype="INT32")),
        "input 'x': expected FP32, got 'INT32'",
    ),
    "no shape": (cleared("shape"), "expected the shape [n, 4], n from 1 to 65536, got []"),
    "a negative shape": (also(cleared("shape"), shaped(-1, 4)), "n from 1 to 65536, got [-1, 4]"),
    "too many rows": (also(cleared("shape"), shaped(2**62, 4)), "n from 1 to 65536, got [4611686018427387904, 4]"),
    "a long shape": (shaped(*[1] * 100_000), "n from 1 to 65536, got [1, 4, 1, 1"),
    "no data": (cleared("contents"), "expected 16 bytes for FP32 [1, 4], got 0"),
    "too many numbers": (
        lambda r: r.inputs[0].contents.fp32_contents.append(5),
        "expected 16 bytes for FP32 [1, 4], got 20",
    ),
    "too few bytes": (in_bytes(bytes(15)), "expected 16 bytes for FP32 [1, 4], got 15"),
    "too many bytes": (in_bytes(bytes(17)), "expected 16 bytes for FP32 [1, 4], got 17"),
    "bytes of nobody": (in_bytes(bytes(16), b""), "raw_input_contents: expected 1, one for each input, got 2"),
    "both": (
        lambda r: r.raw_input_contents.append(bytes(16)),
        "inputs[0]: expected contents or raw_input_contents, got both",
    ),
    "an unknown output": (lambda r: r.outputs.add(name="z"), "expected outputs of 'y', got 'z'"),
    "an output twice": (
        lambda r: [r.outputs.add(name="y") for _ in range(2)],
        "expected each output once, got ['y', 'y']",
    ),
    "classes": (
        lambda r: asks(r.outputs.add(name="y"), "classification", int64_param=2),
        "outputs[0]: there is no classification here",
    ),
    "shared memory": (
        lambda r: asks(r.inputs[0], "shared_memory_region", string_param="x"),
        "inputs[0]: there is no shared_memory_region here",
    ),
    "a sequence": (lambda r: asks(r, "sequence_id", int64_param=2), "the request: there is no sequence_id here"),
    "a time-out that is a text": (
        lambda r: asks(r, "timeout", string_param="1"),
        "timeout: expected 0 to 86400000000 microseconds, got '1'",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_request_that_is_none_has_one_line_that_says_why(site, case):
    change, why = HOSTILE[case]
    with pytest.raises(grpc.RpcError) as failed:
        site.infer(iris(change))
    assert failed.value.code() == BAD
    assert why in failed.value.details()
    assert "\n" not in failed.value.details()
    assert site.infer(iris()).raw_output_contents[0] == np.float32([10, 20, 30]).tobytes()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x0f", "a field of kind 7"),
        (b"\xff" * 20, "a number without an end"),
        (b"\x2a\x7f", "it ends within a field"),
        (b"\x2b", "a field of kind 3"),
        (b"\x0a\x01\xff", "no ModelInferRequest"),
        (b"\x2a\x00" * 100_000, "more than 256 fields"),
    ],
)
def test_bytes_that_are_no_message_are_refused(site, data, why):
    with pytest.raises(grpc.RpcError) as failed:
        site.raw(f"{SERVICE}/ModelInfer", data)
    assert failed.value.code() == BAD
    assert f"{len(data)} bytes that are no ModelInferRequest: " in failed.value.details()
    assert why in failed.value.details()


def test_a_message_of_so_many_fields_is_one():
    wire.check(b"\x08\x01" * wire.MAX_FIELDS)
    wire.check(b"\x09" + bytes(8) + b"\x0d" + bytes(4) + b"\x12\x02ab" + b"\x08\xff\xff\x01")
    with pytest.raises(ValueError, match="more than 256 fields"):
        wire.check(b"\x08\x01" * (wire.MAX_FIELDS + 1))


@pytest.mark.parametrize("packing", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_what_is_too_large_is_refused_however_small_it_was_packed(site, packing):
    with pytest.raises(grpc.RpcError) as failed:
        site.raw(f"{SERVICE}/ModelInfer", bytes(100 << 20), compression=packing)
    assert failed.value.code() == TOO_LARGE
    assert site.live()


def test_a_model_that_is_not_there_or_takes_no_tensors_says_so(site):
    for name in ("nobody", "n" * 300, "", "\0", "\U0001f40d" * 70):
        with pytest.raises(grpc.RpcError) as failed:
            site.infer(iris(lambda r, name=name: setattr(r, "model_name", name)))
        assert failed.value.code() == grpc.StatusCode.NOT_FOUND
        assert "there are 'iris', 'pair'," in failed.value.details()
    with pytest.raises(grpc.RpcError) as failed:
        site.infer(iris(lambda r: setattr(r, "model_version", "7")))
    assert failed.value.details() == "model 'iris' has version '1', and no '7'"
    with pytest.raises(grpc.RpcError) as failed:
        site.infer(iris(lambda r: setattr(r, "model_name", "stub")))
    assert failed.value.details().startswith("model 'stub' answers prompts and takes no tensors")


# -- the messages


def same(ours, theirs) -> None:
    """Is each field of a message what it is in theirs?"""
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated), (
            field.name
        )
        if field.message_type:
            same(field.message_type, other.message_type)
        if field.enum_type:
            values = [{value.name: value.number for value in each.enum_type.values} for each in (field, other)]
            assert values[0] == values[1]


def test_our_messages_are_those_of_tritons_client():
    kinds = {name: kind for name, kind in vars(inference.protocol).items() if hasattr(kind, "DESCRIPTOR")}
    assert len(kinds) > 20
    for name, kind in kinds.items():
        theirs = getattr(service_pb2, name, None) or getattr(model_config_pb2, name)
        same(kind.DESCRIPTOR, theirs.DESCRIPTOR)
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for name, method in inference.protocol.methods.items():
        theirs = service.methods_by_name[name]
        asked, given = method.request.DESCRIPTOR.name, method.response.DESCRIPTOR.name
        assert (asked, given) == (theirs.input_type.name, theirs.output_type.name)
