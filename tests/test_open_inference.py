"""The Open Inference Protocol over HTTP: Triton's own client against the real command, then who means harm."""

import asyncio
import http.client
import json
import os
import re
import signal

import numpy as np
import pytest
import tritonclient.http as triton
from conftest import ROOT, ServerProcess, until, workers
from open_inference import ADD, BYTES_ONLY, MODELS, importing, random, site_command, unused_port
from starlette.requests import ClientDisconnect
from tritonclient.utils import InferenceServerException

import shm_server
from shm_server.gateways import inference
from shm_server.gateways.http import answers, binary
from shm_server.models.tensor import DATATYPES


class Site:
    """A server, and what talks to its gateway."""

    def __init__(self, server: ServerProcess, port: int) -> None:
        self.server, self.port = server, port
        self.triton = triton.InferenceServerClient(f"127.0.0.1:{port}", concurrency=8, network_timeout=120)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def __call__(self, method: str, path: str, body: bytes | dict | None = None, **headers: str) -> tuple[int, dict]:
        """Over one connection, which is kept."""
        sent = json.dumps(body).encode() if isinstance(body, dict) else body
        self.connection.request(method, path, sent, {name.replace("_", "-"): text for name, text in headers.items()})
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())

    def infer(self, model: str, body: bytes | dict, **headers: str) -> tuple[int, dict]:
        return self("POST", f"/v2/models/{model}/infer", body, **headers)

    def close(self) -> None:
        self.triton.close()
        self.connection.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A server with MODELS, and a generator."""
    folder = tmp_path_factory.mktemp("site")
    port = unused_port()
    server = ServerProcess(site_command(folder, "--http", str(port)), folder / "sock", folder / "log")
    found = Site(server, port)
    yield found
    server.process.kill()
    server.process.wait()
    found.close()


@pytest.fixture
def serve(start, tmp_path):
    """serve(SOURCE, ...): another one."""
    sites = []

    def _serve(*flags: str, prefix: tuple[str, ...] = ()) -> Site:
        port = unused_port()
        server = start(*flags, "--http", str(port), prefix=(*importing(tmp_path), *prefix))
        sites.append(Site(server, port))
        return sites[-1]

    yield _serve
    for each in sites:
        each.server.process.kill()  # so that nobody waits for an answer
        each.close()


def given(tensor: dict, array: np.ndarray, *, in_bytes: bool) -> triton.InferInput:
    found = triton.InferInput(tensor["name"], list(array.shape), tensor["datatype"])
    return found.set_data_from_numpy(array, binary_data=in_bytes)


# -- Triton's client


def test_the_server_is_live_and_ready_and_says_who_it_is(site):
    assert site.triton.is_server_live()
    assert site.triton.is_server_ready()
    said = site.triton.get_server_metadata()
    assert (said["name"], said["version"]) == ("shm-server", shm_server.__version__)
    assert "binary_tensor_data" in said["extensions"]


def test_the_page_s_snippet_runs_as_it_stands(site, capsys):
    page = (ROOT / "docs" / "open-inference.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code.replace("127.0.0.1:8000", f"127.0.0.1:{site.port}"), {})
    assert capsys.readouterr().out.strip() == re.search(r"print\(.*\)  # (.*)", code)[1]
    (sent,) = re.findall(r"--json '(.*?)'", page, re.DOTALL)
    assert site.infer("iris", sent.encode())[1]["outputs"][0]["shape"] == [1, 3]


def test_each_model_is_described_with_the_dimension_of_its_rows(site):
    assert site.triton.get_model_metadata("pair") == {
        "name": "pair",
        "versions": ["1"],
        "platform": "python",
        "inputs": [
            {"name": "a", "datatype": "INT32", "shape": [-1, 2, 3]},
            {"name": "b", "datatype": "FP64", "shape": [-1, 5]},
        ],
        "outputs": [
            {"name": "sums", "datatype": "FP64", "shape": [-1, 2]},
            {"name": "table", "datatype": "INT32", "shape": [-1, 3, 2]},
            {"name": "flag", "datatype": "BOOL", "shape": [-1, 1]},
        ],
    }
    assert [each["shape"] for each in site.triton.get_model_metadata("masked", "1")["inputs"]] == [[-1, -1]] * 2
    config = site.triton.get_model_config("masked")
    assert config["input"][0] == {"name": "ids", "data_type": "TYPE_INT32", "dims": [-1]}
    assert config["max_batch_size"] == 65536
    assert site.triton.is_model_ready("pair", "1")
    assert not site.triton.is_model_ready("pair", "2")
    assert not site.triton.is_model_ready("nobody")


def test_the_index_lists_every_model_and_the_generator(site):
    index = site.triton.get_model_repository_index()
    assert [each["name"] for each in index] == [*MODELS, "stub"]
    assert index[0] == {"name": "iris", "version": "1", "state": "READY", "reason": ""}
    assert site("POST", "/v2/repository/index", {"ready": True}) == (200, index)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_tritons_client_what_it_gives_ours_in_bytes_and_in_json(site, name):
    rng = np.random.default_rng(15)
    said = site.triton.get_model_metadata(name)
    arrays = {each["name"]: random(each, rng) for each in said["inputs"]}
    with shm_server.Client(str(site.server.socket)) as ours:
        expected = ours.model(name).run(arrays)
    for in_bytes in (True, False):
        if not in_bytes and max(each.size for each in (*arrays.values(), *expected.values())) > 1 << 20:
            continue
        inputs = [
            given(each, arrays[each["name"]], in_bytes=in_bytes or each["datatype"] in BYTES_ONLY)
            for each in said["inputs"]
        ]
        outputs = [
            triton.InferRequestedOutput(each["name"], binary_data=in_bytes or each["datatype"] in BYTES_ONLY)
            for each in said["outputs"]
        ]
        for wanted in (outputs, None) if in_bytes else (outputs,):
            answer = site.triton.infer(name, inputs, outputs=wanted)
            assert [each["name"] for each in answer.get_response()["outputs"]] == [*expected]
            for output in said["outputs"]:
                found = answer.as_numpy(output["name"])
                assert found.dtype == expected[output["name"]].dtype
                assert found.tobytes() == expected[output["name"]].tobytes(), (output, in_bytes)


def test_the_answer_has_the_outputs_that_were_asked_for_and_the_request_s_id(site):
    said = site.triton.get_model_metadata("pair")
    rng = np.random.default_rng(4)
    inputs = [given(each, random(each, rng), in_bytes=True) for each in said["inputs"]]
    outputs = [triton.InferRequestedOutput("flag", binary_data=False), triton.InferRequestedOutput("sums")]
    answer = site.triton.infer("pair", inputs, model_version="1", outputs=outputs, request_id="seventh")
    response = answer.get_response()
    assert [each["name"] for each in response["outputs"]] == ["flag", "sums"]
    assert (response["id"], response["model_name"], response["model_version"]) == ("seventh", "pair", "1")
    assert (answer.as_numpy("flag").shape, answer.as_numpy("sums").shape) == ((3, 1), (3, 2))
    assert answer.as_numpy("table") is None


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_a_packed_request_is_unpacked_before_its_parts_are_told_apart(site, packing):
    x = np.arange(400, dtype=np.int32).reshape(-1, 1)
    inputs = [given({"name": "x", "datatype": "INT32"}, x, in_bytes=True)]
    how = {"request_compression_algorithm": packing, "response_compression_algorithm": packing}
    assert (site.triton.infer("doubled", inputs, **how).as_numpy("y") == 2 * x).all()


def test_many_rows_of_many_callers_go_through_one_lane(site):
    """More than a lane has slots."""
    batches = [np.arange(start, start + 500, dtype=np.int32).reshape(-1, 1) for start in range(0, 8000, 1000)]
    tensor = {"name": "x", "datatype": "INT32"}
    asked = [site.triton.async_infer("doubled", [given(tensor, x, in_bytes=True)]) for x in batches]
    for x, each in zip(batches, asked, strict=True):
        assert (each.get_result().as_numpy("y") == 2 * x).all()


def test_a_million_numbers_fit_into_json_and_more_are_refused(site):
    x = {"name": "x", "datatype": "UINT8", "shape": [1, 1], "data": [7]}
    status, answer = site.infer("wide", {"inputs": [x]})
    assert (status, answer["outputs"][0]["shape"]) == (200, [1, 1 << 20])
    assert answer["outputs"][0]["data"] == [7] * (1 << 20)
    status, answer = site.infer("wide", {"inputs": [x | {"shape": [2, 1], "data": [7, 8]}]})
    text = "expected at most 1048576 numbers of outputs in JSON, got 2097152: ask for binary data"
    assert (status, answer) == (400, {"error": text})


def test_numbers_may_lie_in_one_list_or_in_lists_as_the_shape_has_them(site):
    b = {"name": "b", "datatype": "FP64", "shape": [2, 5], "data": [[1, 2, 3, 4, 5], [0, 0, 0, 0, -1]]}
    for data in ([*range(12)], np.arange(12).reshape(2, 2, 3).tolist()):
        a = {"name": "a", "datatype": "INT32", "shape": [2, 2, 3], "data": data}
        status, answer = site.infer("pair", {"inputs": [b, a], "id": None, "parameters": None})
        assert status == 200
        assert [each["data"] for each in answer["outputs"]] == [
            [15.0, 15.0, 51.0, -1.0],
            [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11],
            [True, False],
        ]
        assert "id" not in answer


def test_nan_goes_through_in_bytes_and_is_told_where_json_has_no_word_for_it(site):
    odd = np.array([[np.nan, np.inf, -np.inf]], np.float32)
    names = [("FP16", np.float16), ("BF16", DATATYPES["BF16"]), ("FP32", np.float32), ("FP64", np.float64)]
    inputs = [
        given({"name": name.lower(), "datatype": name}, odd.astype(dtype), in_bytes=True) for name, dtype in names
    ]
    found = site.triton.infer("floats", inputs).as_numpy("same_fp32")
    assert found.tobytes() == odd.tobytes()
    said = "output 'same_fp32' has NaN or infinity, for which JSON has no word: ask for it as binary data"
    with pytest.raises(InferenceServerException, match=said):
        site.triton.infer("floats", inputs, outputs=[triton.InferRequestedOutput("same_fp32", binary_data=False)])
    said = "output 'same_fp16': FP16 has no numbers in JSON: ask for it as binary data"
    with pytest.raises(InferenceServerException, match=said):
        site.triton.infer("floats", inputs, outputs=[triton.InferRequestedOutput("same_fp16", binary_data=False)])


def test_what_the_model_says_when_it_fails_is_the_error(site):
    x = np.array([[-1, 2, 3, 4]], np.float32)
    with pytest.raises(InferenceServerException, match="the model's output 0 holds numbers that are not") as failed:
        site.triton.infer("iris", [given({"name": "x", "datatype": "FP32"}, x, in_bytes=True)])
    assert failed.value.status() == "500"


# -- the repository


def test_a_load_puts_the_new_version_in_the_old_one_s_place(serve, tmp_path):
    source = tmp_path / "adding.py"
    source.write_text(ADD.format(number=1))
    site = serve("adding:add", "stub_models:doubled")
    inputs = [given({"name": "x", "datatype": "INT32"}, np.array([[5]], np.int32), in_bytes=True)]
    source.write_text(ADD.format(number=2))
    answer = site.triton.infer("add", inputs)
    assert (answer.as_numpy("y"), answer.get_response()["model_version"]) == ([[6]], "1")
    site.triton.load_model("add")
    answer = site.triton.infer("add", inputs, model_version="2")
    assert (answer.as_numpy("y"), answer.get_response()["model_version"]) == ([[7]], "2")
    assert site.triton.get_model_metadata("add")["versions"] == ["2"]
    source.write_text("1 / 0")
    with pytest.raises(InferenceServerException, match=r"model 'add' was not loaded: .*ZeroDivisionError") as failed:
        site.triton.load_model("add")
    assert failed.value.status() == "500"
    assert site.triton.infer("add", inputs).as_numpy("y") == [[7]]
    assert "doubled: version" not in site.server.log, "another model was loaded again"
    site.server.stop()


def test_a_load_mends_a_model_whose_process_does_not_come_back(serve, tmp_path):
    source = tmp_path / "adding.py"
    source.write_text(ADD.format(number=1))
    site = serve("adding:add")
    inputs = [given({"name": "x", "datatype": "INT32"}, np.array([[5]], np.int32), in_bytes=True)]
    assert site.triton.infer("add", inputs).as_numpy("y") == [[6]]
    source.write_text("1 / 0")
    (worker,) = workers(site.server.pid)
    os.kill(worker, signal.SIGKILL)
    site.server.wait_for("ZeroDivisionError")
    assert not site.triton.is_model_ready("add")
    with pytest.raises(InferenceServerException) as failed:
        site.triton.infer("add", inputs)
    assert failed.value.status() == "503"
    source.write_text(ADD.format(number=2))
    site.triton.load_model("add")
    assert site.triton.infer("add", inputs).as_numpy("y") == [[7]]
    site.server.stop()


def test_what_the_repository_can_not_do_is_said(site):
    known = "there is no model 'nobody': there are 'iris', 'pair',"
    for call in (site.triton.load_model, site.triton.unload_model, site.triton.get_model_metadata):
        with pytest.raises(InferenceServerException, match=known) as failed:
            call("nobody")
        assert failed.value.status() == "404"
    with pytest.raises(InferenceServerException, match="models are not unloaded while the server runs"):
        site.triton.unload_model("iris")
    with pytest.raises(InferenceServerException, match="expected no parameters: a model is loaded again from where"):
        site.triton.load_model("iris", config="{}")
    assert site("POST", "/v2/repository/index", b"[]") == (400, {"error": "expected a JSON object, got list"})


# -- a model that is not there for now


def test_a_model_that_does_not_answer_is_not_ready_and_a_call_s_time_out_ends_its_wait(serve, tmp_path):
    fifo = tmp_path / "hung"
    os.mkfifo(fifo)
    site = serve("stub_models:hung", "stub_models:iris", "--answer-within", "0.2", prefix=("env", f"HUNG={fifo}"))
    inputs = [given({"name": "x", "datatype": "INT32"}, np.array([[-1]], np.int32), in_bytes=True)]
    first = site.triton.async_infer("hung", inputs)
    until(lambda: not site.triton.is_model_ready("hung"))
    with pytest.raises(InferenceServerException) as failed:
        site.triton.infer("hung", inputs, timeout=1000)
    assert failed.value.status() == "504"
    assert site.triton.is_server_live()
    assert not site.triton.is_server_ready()
    assert site.triton.is_model_ready("iris")
    not_ready = {"name": "hung", "ready": False, "error": "model 'hung': it is not answering"}
    assert site("GET", "/v2/models/hung/ready") == (503, not_ready)
    index = site.triton.get_model_repository_index()
    assert (index[0]["state"], index[0]["reason"]) == ("UNAVAILABLE", "it is not answering")
    assert [each["name"] for each in site("POST", "/v2/repository/index", {"ready": True})[1]] == ["iris"]
    fifo.write_bytes(b"")
    assert first.get_result().as_numpy("y") == [[-1]]
    until(lambda: site.triton.is_server_ready() and site.triton.is_model_ready("hung"))
    site.server.stop()


# -- who means harm


X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
BYTES = {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
NO_JSON = "expected a JSON object: "


def x(**fields) -> dict:
    return {"inputs": [X | fields]}


def without(field: str) -> dict:
    return {"inputs": [{name: value for name, value in X.items() if name != field}]}


def asking(**fields) -> dict:
    return {"inputs": [X], "outputs": [{"name": "y"} | fields]}


HOSTILE = {
    "no JSON": (b"{", NO_JSON + "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    "nothing": (b"", NO_JSON + "Expecting value: line 1 column 1 (char 0)"),
    "no object": (b"[]", "expected a JSON object, got list"),
    "JSON without an end": (b'{"inputs": ' + b"[" * 200_000, "expected a JSON object, got one that is too deep"),
    "NaN in it": (b'{"inputs": [NaN]}', NO_JSON + "NaN is no JSON"),
    "no UTF-8": (b'{"id": "\xff"}', NO_JSON),
    "an id that is a number": ({"id": 7, "inputs": [X]}, "the request: expected id of type str, got int"),
    "parameters in a list": (
        {"parameters": [], "inputs": [X]},
        "the request: expected parameters of type dict, got list",
    ),
    "no inputs": ({}, "the request: expected inputs of type list, got none"),
    "inputs that are none": ({"inputs": {}}, "the request: expected inputs of type list, got dict"),
    "an empty list of inputs": ({"inputs": []}, "expected the inputs 'x', got no 'x'"),
    "too many inputs": ({"inputs": [X] * 1000}, "inputs: expected at most 24, got 1000"),
    "an input that is a text": ({"inputs": ["x"]}, "inputs[0]: expected an object, got str"),
    "an input without a name": ({"inputs": [{}]}, "inputs[0]: expected name of type str, got none"),
    "an unknown input": (x(name="z"), "expected the inputs 'x', got 'z'"),
    "half a surrogate pair": (x(name="\ud800"), r"expected the inputs 'x', got '\ud800'"),
    "an input of a long name": (x(name="z" * 10_000), "expected the inputs 'x', got '" + "z" * 99),
    "an input twice": ({"inputs": [X, X]}, "input 'x' stands in the request twice"),
    "no datatype": (without("datatype"), "inputs[0]: expected datatype of type str, got none"),
    "another datatype": (x(datatype="FP64"), "input 'x': expected FP32, got 'FP64'"),
    "texts": (x(datatype="BYTES", data=["a"]), "input 'x': expected FP32, got 'BYTES'"),
    "no shape": (without("shape"), "inputs[0]: expected shape of type list, got none"),
    "no rows": (x(shape=[0, 4], data=[]), "input 'x': expected the shape [n, 4], n from 1 to 65536, got [0, 4]"),
    "negative rows": (x(shape=[-1, 4]), "n from 1 to 65536, got [-1, 4]"),
    "two negative dimensions": (x(shape=[-1, -4]), "n from 1 to 65536, got [-1, -4]"),
    "too many rows": (x(shape=[65537, 4]), "n from 1 to 65536, got [65537, 4]"),
    "a number of rows that is none": (x(shape=[10**300, 4]), "n from 1 to 65536, got [1000000"),
    "another row": (x(shape=[1, 5], data=[1, 2, 3, 4, 5]), "expected the shape [n, 4], n from 1 to 65536, got [1, 5]"),
    "one row without its dimension": (x(shape=[4]), "expected the shape [n, 4], n from 1 to 65536, got [4]"),
    "a thousand dimensions": (x(shape=[1] * 1000), "expected the shape [n, 4], n from 1 to 65536, got [1, 1, 1,"),
    "dimensions that are no numbers": (x(shape=["1", True]), "n from 1 to 65536, got ['1', True]"),
    "half a dimension": (x(shape=[1.5, 4]), "n from 1 to 65536, got [1.5, 4]"),
    "no data": (without("data"), "inputs[0]: expected data of type list, got none"),
    "data that are a text": (x(data="1234"), "inputs[0]: expected data of type list, got str"),
    "too few numbers": (x(data=[1, 2, 3]), "input 'x': expected 4 numbers for [1, 4], got 3"),
    "too many numbers": (x(data=[1] * 9), "input 'x': expected 4 numbers for [1, 4], got 9"),
    "lists of other lengths": (x(data=[[1, 2], [3, 4]]), "expected one list, or lists of 1 at depth 1 for [1, 4]"),
    "lists of too few": (x(data=[[1, 2, 3]]), "expected one list, or lists of 4 at depth 2 for [1, 4]"),
    "lists that are too deep": (x(data=[[[1], [2], [3], [4]]]), "input 'x': expected numbers that are FP32, got list"),
    "numbers among lists": (x(shape=[2, 4], data=[[1, 2, 3, 4], 5]), "expected one list, or lists of 4 at depth 2"),
    "texts for numbers": (x(data=[1, 2, "3", None]), "expected numbers that are FP32, got NoneType, str"),
    "truth for numbers": (x(data=[1, 2, 3, True]), "expected numbers that are FP32, got bool"),
    "a number beyond the range": (x(data=[1, 2, 3, 1e39]), "expected numbers that fit FP32, got one beyond its range"),
    "1e400": (json.dumps(x(data=[7, 1, 1, 1])).replace("7", "1e400").encode(), "numbers that fit FP32, got one"),
    "a number of many digits": (x(data=[1, 2, 3, 10**400]), "expected numbers that fit FP32: int too large"),
    "data and bytes": ({"inputs": [X | BYTES]}, "binary_data_size: expected 0 to 0, as the body has, got 16"),
    "an unknown output": (asking(name="z"), "expected outputs of 'y', got 'z'"),
    "an output twice": ({"inputs": [X], "outputs": [{"name": "y"}] * 2}, "expected each output once, got ['y', 'y']"),
    "outputs that are texts": ({"inputs": [X], "outputs": ["y"]}, "outputs[0]: expected an object, got str"),
    "too many outputs": ({"inputs": [X], "outputs": [{"name": "y"}] * 1000}, "outputs: expected at most 24, got 1000"),
    "binary_data of another kind": (
        asking(parameters={"binary_data": 1}),
        "outputs[0].parameters: expected binary_data of type bool, got int",
    ),
    "binary_data_output of another kind": (
        {"inputs": [X], "parameters": {"binary_data_output": "yes"}},
        "parameters: expected binary_data_output of type bool, got str",
    ),
    "classes": (asking(parameters={"classification": 2}), "outputs[0]: there is no classification here"),
    "a sequence": ({"inputs": [X], "parameters": {"sequence_id": 3}}, "the request: there is no sequence_id here"),
    "shared memory": (
        x(parameters={"shared_memory_region": "mine"}),
        "inputs[0]: there is no shared_memory_region here",
    ),
    "a negative time-out": (
        {"inputs": [X], "parameters": {"timeout": -1}},
        "timeout: expected 0 to 86400000000 microseconds, got -1",
    ),
    "a time-out that is true": ({"inputs": [X], "parameters": {"timeout": True}}, "microseconds, got True"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_request_that_is_none_has_one_line_that_says_why_and_the_connection_goes_on(site, case):
    body, why = HOSTILE[case]
    status, answer = site.infer("iris", body)
    assert (status, [*answer]) == (400, ["error"])
    assert why in answer["error"]
    assert "\n" not in answer["error"]
    assert len(answer["error"]) < 400
    before = site.connection.sock
    assert before is not None, "the connection was closed"
    status, answer = site.infer("iris", {"inputs": [X]})
    assert (status, answer["outputs"][0]["data"]) == (200, [10, 20, 30])
    assert site.connection.sock is before


def packed(said: object, behind: bytes, length: int | str | None = None) -> tuple[bytes, dict[str, str]]:
    head = json.dumps(said).encode()
    return head + behind, {"Inference_Header_Content_Length": str(len(head) if length is None else length)}


HALF = {"name": "a", "datatype": "INT32", "shape": [1, 2, 3], "parameters": {"binary_data_size": 24}}
BEHIND = {
    "a byte too few": (
        "iris",
        *packed({"inputs": [BYTES]}, bytes(15)),
        "binary_data_size: expected 0 to 15, as the body has, got 16",
    ),
    "a byte too many": (
        "iris",
        *packed({"inputs": [BYTES]}, bytes(17)),
        "expected 16 bytes behind the JSON, as inputs say, got 1 more",
    ),
    "bytes of nobody": (
        "iris",
        *packed({"inputs": [X]}, bytes(5)),
        "expected 0 bytes behind the JSON, as inputs say, got 5 more",
    ),
    "a size that is not the shape's": (
        "iris",
        *packed({"inputs": [BYTES | {"parameters": {"binary_data_size": 12}}]}, bytes(12)),
        "input 'x': expected 16 bytes for FP32 [1, 4], got 12",
    ),
    "a shape that is not the size's": (
        "iris",
        *packed({"inputs": [BYTES | {"shape": [60_000, 4]}]}, bytes(16)),
        "expected 960000 bytes for FP32 [60000, 4], got 16",
    ),
    "a negative size": (
        "iris",
        *packed({"inputs": [BYTES | {"parameters": {"binary_data_size": -16}}]}, bytes(16)),
        "expected 0 to 16, as the body has, got -16",
    ),
    "a size that is a text": (
        "iris",
        *packed({"inputs": [BYTES | {"parameters": {"binary_data_size": "16"}}]}, bytes(16)),
        "inputs[0].parameters: expected binary_data_size of type int, got str",
    ),
    "data beside bytes": (
        "iris",
        *packed({"inputs": [X | BYTES]}, bytes(16)),
        "inputs[0]: expected data or binary_data_size, got both",
    ),
    "the second input's bytes are not there": (
        "pair",
        *packed({"inputs": [HALF, HALF | {"name": "b", "parameters": {"binary_data_size": 40}}]}, bytes(24)),
        "inputs[1]: binary_data_size: expected 0 to 0, as the body has, got 40",
    ),
    "a truth of 2": (
        "whole",
        *packed(
            {"inputs": [{"name": "bool", "datatype": "BOOL", "shape": [1, 3], "parameters": {"binary_data_size": 3}}]},
            b"\0\1\2",
        ),
        "input 'bool': expected bytes of 0 and 1 for BOOL, got 2",
    ),
    "a length beyond the body": (
        "iris",
        *packed({"inputs": [X]}, b"", 10_000),
        "Inference-Header-Content-Length: expected 1 to ",
    ),
    "a negative length": ("iris", *packed({"inputs": [X]}, b"", -1), "Inference-Header-Content-Length: expected 1 to "),
    "a length of nothing": (
        "iris",
        *packed({"inputs": [X]}, b"", 0),
        "Inference-Header-Content-Length: expected 1 to ",
    ),
    "a length of many digits": ("iris", *packed({"inputs": [X]}, b"", "9" * 5000), "as the body has, got '9999"),
    "a length that is a word": ("iris", *packed({"inputs": [X]}, b"", "all"), "as the body has, got 'all'"),
    "a length within the JSON": ("iris", *packed({"inputs": [X]}, b"", 5), NO_JSON),
}


@pytest.mark.parametrize("case", BEHIND)
def test_bytes_behind_the_json_are_as_many_as_it_says(site, case):
    model, body, headers, why = BEHIND[case]
    status, answer = site.infer(model, body, **headers)
    assert status == 400
    assert why in answer["error"]
    body, headers = packed({"inputs": [BYTES]}, np.float32([1, 2, 3, 4]).tobytes())
    status, answer = site.infer("iris", body, **headers)
    assert (status, answer["outputs"][0]["data"]) == (200, [10, 20, 30])


OTHERS = {
    "whole numbers only": ("doubled", "INT32", [1, 1], [1.5], "expected numbers that are INT32, got float"),
    "a whole number that does not fit": ("doubled", "INT32", [1, 1], [2**31], "expected numbers that fit INT32: "),
    "one of many digits": ("doubled", "INT32", [1, 1], [10**4000], "expected numbers that fit INT32: "),
    "a truth": ("doubled", "INT32", [1, 1], [True], "expected numbers that are INT32, got bool"),
    "rows that make too much": (
        "wide",
        "UINT8",
        [65, 1],
        [0] * 65,
        "at most 67108864 bytes, got some that make 68157440",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_numbers_are_those_of_the_datatype(site, case):
    model, datatype, shape, data, why = OTHERS[case]
    status, answer = site.infer(model, {"inputs": [{"name": "x", "datatype": datatype, "shape": shape, "data": data}]})
    assert status == 400
    assert why in answer["error"]


def test_two_byte_floats_are_no_numbers_in_json(site):
    x = {"name": "fp16", "datatype": "FP16", "shape": [1, 3], "data": [1, 2, 3]}
    text = "input 'fp16': expected binary data, which FP16 has only, got numbers"
    assert site.infer("floats", {"inputs": [x]}) == (400, {"error": text})


def test_inputs_that_do_not_belong_together_are_refused(site):
    ids = {"name": "ids", "datatype": "INT32", "shape": [1, 3], "data": [1, 2, 3]}
    mask = {"name": "mask", "datatype": "UINT8"}
    for other, why in (
        ({"shape": [2, 3], "data": [1] * 6}, "expected a batch of 1, as before, got a batch of 2"),
        ({"shape": [1, 4], "data": [1] * 4}, "expected 3 where the shape says -1, as before, got 4"),
        ({"shape": [1, 101], "data": [1] * 101}, "[n, t], n from 1 to 65536, t from 1 to 100, got [1, 101]"),
        ({"shape": [1, 0], "data": []}, "[n, t], n from 1 to 65536, t from 1 to 100, got [1, 0]"),
    ):
        status, answer = site.infer("masked", {"inputs": [ids, mask | other]})
        assert status == 400
        assert why in answer["error"]


def test_a_model_that_is_not_there_or_takes_no_tensors_says_so(site):
    listed = "there are 'iris', 'pair', 'masked', 'halves', 'large', 'doubled', 'whole', 'floats', 'wide', 'stub'"
    for name in ("nobody", "n" * 300, "%00", "%F0%9F%90%8D", "%FF"):
        status, answer = site.infer(name, {"inputs": [X]})
        assert status == 404
        assert answer["error"].startswith("there is no model ")
        assert listed in answer["error"]
    status, answer = site("POST", "/v2/models/iris/versions/7/infer", {"inputs": [X]})
    assert (status, answer) == (404, {"error": "model 'iris' has version '1', and no '7'"})
    status, answer = site.infer("stub", {"inputs": [X]})
    text = "model 'stub' answers prompts and takes no tensors: HTTP's POST /prompt and /v1/completions have it"
    assert (status, answer) == (400, {"error": text})
    assert site("GET", "/v2/models/stub")[1]["inputs"][0]["name"] == "prompt"
    assert site("GET", "/v2/models/iris/infer")[0] == 405
    assert site("GET", "/v2/nothing")[0] == 404


def test_what_is_too_large_is_refused(site):
    data, headers = packed({"inputs": [X]}, bytes(64 << 20))
    assert site.infer("iris", data, **headers) == (413, {"error": "a body of more than 67108864 bytes"})
    data = json.dumps({"inputs": [X]}).encode() + b" " * (16 << 20)
    text = f"expected at most 16777216 bytes of JSON, got {len(data)}: send binary data"
    assert site.infer("iris", data) == (413, {"error": text})


def test_no_more_is_held_in_memory_than_fits():
    service = inference.Inference(None)
    with service.holding(inference.MAX_IN_HAND - 1), service.holding(1):
        with pytest.raises(inference.TooMuch) as refused:
            service.holding(1).__enter__()
        assert answers.described(refused.value) == (503, "too many large requests at a time")
    with service.holding(inference.MAX_IN_HAND):
        pass


def test_an_answer_that_nobody_reads_is_let_go(monkeypatch):
    monkeypatch.setattr(answers, "WRITE_SECONDS", 0.001)
    gone = []

    async def send(message: dict) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def answer() -> None:
        with pytest.raises(ClientDisconnect):
            await binary.Sent([bytes(1 << 20)], None, lambda: gone.append(True))({}, None, send)

    asyncio.run(answer())
    assert gone == [True]
