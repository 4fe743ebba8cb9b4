"""Any model through the call lane: its signature, its tensors in place, batches, and what a model does wrong."""

import sys
from pathlib import Path

import numpy as np
import pytest
from client import Client, connect, hello, read_reason

from shm_server import Server, _core, layout, model
from shm_server.layout import Op, Reason, Status
from shm_server.models import ModelError
from shm_server.session.doorbell import welcome_metadata
from shm_server.worker.call_lane import CallDispatcher
from shm_server.worker.dispatch import SERVER_NAME

STUB = Path(__file__).with_name("stub_models.py")


@pytest.fixture
def serve(start, tmp_path):
    """serve(NAME) runs one of the models of stub_models.py; its gate is tmp_path / "gate"."""
    return lambda name: start(command=[sys.executable, str(STUB), name, str(tmp_path / "sock"), str(tmp_path / "gate")])


def ran(client: Client, slot: int, **fields) -> np.void:
    client.submit(slot, Op.RUN, **fields)
    done = client.wait()
    assert (done["status"], done["slot"]) == (Status.OK, slot), client.message(done)
    return done


def test_a_signature_is_in_the_welcome_and_in_the_table(serve):
    server = serve("pair")
    with Client(server.socket) as client:
        assert client.signature["inputs"] == [
            {"name": "a", "datatype": "INT32", "shape": [2, 3]},
            {"name": "b", "datatype": "FP64", "shape": [5]},
        ]
        assert [each["name"] for each in client.signature["outputs"]] == ["sums", "table", "flag"]
        assert [int(row["row_bytes"]) for row in client.tensors] == [64] * 5
        assert [row["dims"][: row["rank"]].tolist() for row in client.tensors] == [[2, 3], [5], [2], [3, 2], [1]]


def long_row(size: int):
    return model(inputs={"x": ("UINT8", ("n",))}, outputs={"y": ("FP32", (4,))}, bounds={"n": size}, name="m")(
        lambda x: None
    )


def test_a_model_whose_row_fills_a_segment_is_taken_and_one_of_a_byte_more_is_refused_before_it_serves(tmp_path):
    # Beside the input's row: the header, both rings, the messages and the output's row, a page each.
    most = layout.MAX_SEGMENT_BYTES - 5 * layout.PAGE_BYTES
    CallDispatcher(long_row(most), spin_us=0, max_batch=1, slots=1)
    with pytest.raises(ModelError) as refused:
        Server(long_row(most + 1), tmp_path / "sock")
    said = f"expected a segment of at most 1073741824 bytes, got {layout.MAX_SEGMENT_BYTES + layout.PAGE_BYTES}"
    assert str(refused.value) == f"m: {said} for one row of each tensor, n at {most + 1}"


LABELLED = """
import sys, shm_server

def labelled(length):
    return shm_server.model(
        inputs={"x": ("FP32", (1,))}, outputs={"y": ("FP32", (1,), ("l" * length,))}, name="m"
    )(lambda x: x)

if __name__ == "__main__":
    import logging
    logging.basicConfig(level="INFO")
    shm_server.Server(labelled(int(sys.argv[2])), sys.argv[1]).run()
"""


def test_a_model_whose_labels_fill_a_welcome_is_served_and_one_of_a_byte_more_is_refused_before_that(start, tmp_path):
    names: dict = {"__name__": "labelled"}
    exec(LABELLED, names)
    short = CallDispatcher(names["labelled"](1), spin_us=0, max_batch=1, slots=1).metadata()
    room = layout.MAX_FRAME_BODY - layout.welcome.itemsize
    most = 1 + room - len(welcome_metadata(SERVER_NAME, short))
    with pytest.raises(ModelError) as refused:
        Server(names["labelled"](most + 1), tmp_path / "sock")
    said = f"m: expected a signature that takes at most {room} bytes of a welcome, got {room + 1}: "
    assert str(refused.value) == said + "are its outputs to have that many labels?"
    script = tmp_path / "labelled.py"
    script.write_text(LABELLED)
    server = start(socket=tmp_path / "sock", command=[sys.executable, str(script), str(tmp_path / "sock"), str(most)])
    with Client(server.socket) as client:
        assert [len(label) for label in client.signature["outputs"][0]["labels"]] == [most]


def test_every_input_is_read_and_every_output_written_whatever_the_slots(serve):
    server, seed = serve("pair"), 20261130
    print("seed", seed)
    rng = np.random.default_rng(seed)
    with Client(server.socket) as client:
        a, b = client.array(0), client.array(1)
        a[:], b[:] = rng.integers(-99, 99, a.shape), rng.normal(size=b.shape)
        for slots in ((3,), (0, 1), (7, 6, 5), (9, 20, 40), (63, 62, 61), tuple(range(64))):
            for slot in slots:
                client.submit(slot, Op.RUN)
            for _ in slots:
                done = client.wait()
                assert (done["status"], done["extent"]) == (Status.OK, 0)
            sums, table, flag = client.array(2), client.array(3), client.array(4)
            for slot in slots:
                np.testing.assert_allclose(sums[slot], [a[slot].sum(), b[slot].sum()])
                np.testing.assert_array_equal(table[slot], a[slot].T)
                assert flag[slot, 0] == (b[slot].sum() > 0)
                for view in (sums, table, flag):
                    view[slot] = 0


def test_calls_of_several_sessions_run_as_one_batch_and_each_gets_its_own_rows(serve, tmp_path):
    server = serve("gated")
    with Client(server.socket) as first, Client(server.socket) as second, Client(server.socket) as third:
        first.array(0)[0] = -1
        first.submit(0, Op.RUN)
        server.wait_for("in the model")
        for client, slot, number in ((first, 5, 50), (second, 5, 51), (third, 9, 52), (third, 8, 53)):
            client.array(0)[slot] = number
            client.submit(slot, Op.RUN)
        (tmp_path / "gate").touch()
        assert first.wait()["batch"] == 1
        for client, slot, number in ((first, 5, 50), (second, 5, 51), (third, 9, 52), (third, 8, 53)):
            done = client.wait()
            assert (done["slot"], done["status"], done["batch"]) == (slot, Status.OK, 4)
            assert client.array(1)[slot].tolist() == [number, 4]


def test_a_batch_runs_at_the_smallest_bucket_that_holds_its_largest_extent(serve):
    server = serve("tokens")
    with Client(server.socket) as client:
        ids, mask, squares, last = (client.array(number) for number in range(4))
        ids[:], mask[:] = 7, 1  # also behind the extents: whatever the client left there
        for extent, bucket in ((0, 8), (1, 8), (8, 8), (9, 16), (64, 64), (65, 100), (100, 100)):
            squares[:] = -1
            ids[3, :extent] = np.arange(extent)
            done = ran(client, 3, extent=extent)
            assert done["extent"] == extent
            np.testing.assert_array_equal(squares[3, :extent], ids[3, :extent] ** 2)
            assert (squares[3, extent:] == -1).all(), "behind the extent nothing is written"
            assert last[3].tolist() == [max(0, extent - 1), bucket], "zeros stand behind it"


def test_an_echo_counts_the_bytes_up_to_the_extent(serve):
    server = serve("tokens")
    with Client(server.socket) as client:
        client.inputs[0][:], client.inputs[1][:] = 3, 4
        client.submit(0, extent=5)
        done = client.wait()
        assert done["checksum"] == _core.checksum(bytes([3] * 20 + [0] * 4 + [4] * 5))


def test_a_client_may_ask_for_a_smaller_bound(serve):
    server = serve("tokens")
    with Client(server.socket, input_extent=10) as client:
        assert client.tensors[0]["dims"][0] == 10
        client.array(0)[0], client.array(1)[0] = np.arange(10), 1
        ran(client, 0, extent=10)
        assert client.array(3)[0].tolist() == [9, 16]
        client.submit(0, Op.RUN, extent=11)
        assert read_reason(client.sock)[1:] == (Reason.PROTOCOL, "submission 1: extent beyond the bound: 11")
    with connect(server.socket) as sock:
        sock.sendall(hello(input_extent=101))
        assert read_reason(sock)[1:] == (Reason.MALFORMED, "an extent of 101; tokens takes tokens up to 100")


def test_rows_of_16_mib_are_served_in_a_bounded_segment(serve):
    server = serve("large")
    with Client(server.socket) as client:
        assert client.lane["slot_count"] == 2
        assert client.welcome["segment_bytes"] <= (64 << 20) + 16 * layout.PAGE_BYTES
        client.inputs[0][1] = 200
        client.inputs[0][1, -1] = 7
        ran(client, 1)
        np.testing.assert_array_equal(client.outputs[0][1], client.inputs[0][1])


WRONG = {
    1: "ModelError: output 'y': expected FP32 (1, 2), got FP64 (1, 2)",
    2: "ModelError: output 'y': expected FP32 (1, 2), got FP32 (1, 1)",
    3: "ModelError: output 'y': expected FP32 (1, 2), got outputs 'z'",
    4: "ModelError: output 'y': expected FP32 (1, 2), got NoneType",
    5: "ModelError: output 'y': expected FP32 (1, 2), got list",
}


def test_a_model_that_gives_what_it_has_not_declared_is_that_batchs_error_with_both_shapes(serve):
    server = serve("wrong")
    with Client(server.socket) as client:
        for number, complaint in WRONG.items():
            client.array(0)[0] = number
            client.submit(0, Op.RUN)
            done = client.wait()
            assert (done["status"], client.message(done)) == (Status.MODEL_ERROR, complaint)
            client.array(0)[0] = 0
            ran(client, 0)
            assert client.array(1)[0].tolist() == [1, 1]
    assert server.stop()["model_errors"] == len(WRONG)


def test_nan_where_scores_are_promised_is_that_rows_error_only(serve):
    server = serve("iris")
    with Client(server.socket) as client:
        client.array(0)[:] = 1
        client.array(0)[1, 0] = -1
        for slot in range(3):
            client.submit(slot, Op.RUN)
        answers = [client.wait() for _ in range(3)]
        assert [int(done["status"]) for done in answers] == [Status.OK, Status.MODEL_ERROR, Status.OK]
        assert client.message(answers[1]) == "the model's output 0 holds numbers that are not finite"
        assert client.array(1)[2].tolist() == [4, 8, 12]


def test_nan_in_scores_of_16_bits_is_that_batchs_error(serve):
    server = serve("halves")
    with Client(server.socket) as client:
        client.array(0)[0] = [np.nan, 1]
        client.submit(0, Op.RUN)
        done = client.wait()
        assert done["status"] == Status.MODEL_ERROR
        assert client.message(done) == "ModelError: output 'y': expected numbers, got NaN in row 0"
        client.array(0)[:3] = [0.5, 1]  # three run in a bucket of four, whose last row nobody asked for
        client.array(0)[3] = np.nan
        for slot in range(3):
            client.submit(slot, Op.RUN)
        assert [client.wait()["status"] for _ in range(3)] == [Status.OK] * 3
        assert client.array(1)[2].tolist() == [0.5, 1]
