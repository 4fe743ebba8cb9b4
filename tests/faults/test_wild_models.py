"""What a model of somebody's does in its process, beside one that does nothing: each thing is its own callers' only."""

import contextlib

import pytest
from client import Client, hung_up
from conftest import children, until
from test_several_models import run, serve  # noqa: F401 -- a fixture

from shm_server.layout import Op, Status


@pytest.fixture
def server(serve):  # noqa: F811
    return serve("stub_models:wild", "stub_models:doubled")


def ask(client: Client, number: int) -> tuple[Status, str]:
    client.array(0)[0] = number
    client.submit(0, Op.RUN)
    done = client.wait()
    return Status(done["status"]), client.message(done)


@pytest.mark.parametrize(("number", "words"), [(-1, "RuntimeError: it is wild"), (-2, "SystemExit: 3")])
def test_what_it_raises_is_that_batchs_error(server, number, words):
    with Client(server.socket) as client:
        assert ask(client, number) == (Status.MODEL_ERROR, words)
        assert ask(client, 5) == (Status.OK, "")
    assert run(server.socket, "doubled", [4]) == [8]
    server.stop()


def test_a_fork_of_it_answers_nobody_and_holds_on_to_nothing(server):
    with Client(server.socket) as client:
        for number in (-3, 6, 7):
            assert ask(client, number) == (Status.OK, "")
        assert not client.answered, "the child answered too"
    assert run(server.socket, "doubled", [4]) == [8]
    server.stop()


def test_its_segmentation_fault_ends_its_own_process_which_is_started_again(server):
    with Client(server.socket, model=b"doubled") as other, Client(server.socket) as client:
        client.array(0)[0] = -4
        client.submit(0, Op.RUN)
        assert hung_up(client.sock)
        assert ask(other, 4) == (Status.OK, "")
    server.wait_for("the process of wild was ended by SIGSEGV; it is started again")
    server.wait_for("the process of wild is back")
    assert run(server.socket, "wild", [9]) == [9]
    server.stop()


def test_however_much_it_prints_it_is_answered(server):
    with Client(server.socket, model=b"doubled") as other, Client(server.socket) as client:
        assert ask(client, -5) == (Status.OK, "")
        assert ask(other, 4) == (Status.OK, "")
    server.stop()


def test_a_folder_of_many_models_is_served_and_one_client_opens_them_all(serve, tmp_path):  # noqa: F811
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    import onnx_files

    names = [f"model-{number:02}" for number in range(16)]
    for name in names:
        (tmp_path / "models" / name / "1").mkdir(parents=True)
        onnx_files.write(tmp_path / "models" / name / "1" / "model.onnx", onnx_files.linear())
    server = serve(str(tmp_path / "models"))
    assert len(children(server.pid)) == len(names)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server.socket, model=name.encode())) for name in names]
        for client, name in zip(clients, names, strict=True):
            assert client.signature["name"] == name
            client.array(0)[0] = 1
            client.submit(0, Op.RUN)
        assert [client.wait()["status"] for client in clients] == [Status.OK] * len(names)
    until(lambda: len(children(server.pid)) == len(names))
    server.stop()
