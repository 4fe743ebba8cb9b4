"""`shm-server serve --config FILE`."""

import argparse

import pytest
from client import Client
from conftest import children, until
from test_reload import reload, serve, write  # noqa: F401 -- a fixture

from shm_server.cli.config import entries
from shm_server.models import ModelError

DEFAULTS = {"engine": None, "model_threads": 1, "replicas": 1, "max_batch": 32, "slots": 64}


def wanted(path, *sources: str) -> list:
    return entries(argparse.Namespace(sources=sources, config=str(path), **DEFAULTS))


def test_a_model_has_what_its_table_says_and_else_what_the_flags_do(tmp_path):
    (tmp_path / "iris.onnx").touch()
    path = tmp_path / "sidecar.toml"
    path.write_text(
        """
[models.first]
source = "iris.onnx"
engine = "openvino"
threads = 2
replicas = 3

[models.second]
source = "flowers:iris"
max_batch = 8
slots = 16
"""
    )
    given, first, second = wanted(path, "digits:model")
    assert (given.source.name, given.replicas, given.slots) == ("model", 1, 64)
    assert (first.source.name, first.source.place) == ("first", str(tmp_path / "iris.onnx"))
    assert (first.engine, first.threads, first.replicas, first.max_batch, first.slots) == ("openvino", 2, 3, 32, 64)
    assert (second.source.name, second.source.place, second.source.is_file) == ("second", "flowers:iris", False)
    assert (second.engine, second.threads, second.replicas, second.max_batch, second.slots) == (None, 1, 1, 8, 16)


BAD = {
    "": "expected tables [models.NAME], got none",
    "models = 5": "expected tables [models.NAME], got none",
    "[model.a]\nsource = 'a:b'": "expected tables [models.NAME], got model",
    "[models]\na = 5": "[models.a]: expected a table, got 5",
    "[models.a]\nreplicas = 2": "[models.a]: expected source, such as 'flowers:iris' or 'minilm.onnx', got None",
    "[models.a]\nsource = 'a:b'\nreplica = 2": "[models.a]: unknown key 'replica'; expected source, engine, threads",
    "[models.a]\nsource = 'a:b'\nreplicas = 0": "replicas: expected a whole number from 1 to 64, got 0",
    "[models.a]\nsource = 'a:b'\nthreads = true": "threads: expected a whole number from 1 to 1024, got True",
    "[models.a]\nsource = 'a:b'\nengine = 'caffe'": "[models.a]: engine: expected one of",
    "[models.a]\nsource = 'nothing.onnx'": "[models.a]: nothing.onnx: no such file or folder",
    "[models.a]\nsource = 'a:b'\n[models.a]\nsource = 'a:c'": "can not be read: Cannot declare",
    "[models.given]\nsource = 'a:b'": "two models are named 'given': x:given and a:b",
    "[models.'']\nsource = 'a:b'": "[models.]: a model's name: expected 1 to 64 bytes of printable UTF-8, got ''",
}


@pytest.mark.parametrize("text", BAD)
def test_a_file_that_says_something_else_is_refused_in_a_line(tmp_path, text):
    path = tmp_path / "sidecar.toml"
    path.write_text(text)
    with pytest.raises(ModelError) as error:
        wanted(path, "x:given")
    assert BAD[text] in str(error.value)


def test_a_file_that_is_not_there_or_no_text_is_refused_in_a_line(tmp_path):
    with pytest.raises(ModelError, match=r"nothing\.toml: can not be read"):
        wanted(tmp_path / "nothing.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match=r"bytes\.toml: can not be read"):
        wanted(tmp_path / "bytes.toml")


def test_a_server_follows_its_file_when_it_is_loaded_again(serve, tmp_path):  # noqa: F811
    write(tmp_path, 1)
    path = tmp_path / "sidecar.toml"
    path.write_text("[models.plus]\nsource = 'adding:add'\nslots = 5\n")
    server = serve("--config", str(path))
    assert len(children(server.pid)) == 1
    with Client(server.socket, model=b"plus") as client:
        assert client.lane["slot_count"] == 5
    path.write_text("[models.plus]\nsource = 'adding:add'\nreplicas = 2\n[models.iris]\nsource = 'stub_models:iris'\n")
    assert reload(server) == (0, "plus: version 1 in place of 1\niris: version 1, new\n")
    until(lambda: len(children(server.pid)) == 3)
    with Client(server.socket, model=b"iris") as client:
        assert client.lane["slot_count"] == 64
    path.write_text("[models.plus]\nsource = 5\n")
    code, said = reload(server)
    assert (code, "expected source" in said) == (1, True)
    server.stop()
