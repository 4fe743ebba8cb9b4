"""shm_server.AsyncClient against real servers: the calls of a loop's coroutines, which nothing blocks."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, children, until

from shm_server import AsyncClient, Client, _core
from shm_server.client import errors

STUBS = ROOT / "tests" / "stub_models.py"


@pytest.fixture
def serve(start, tmp_path):
    """serve(NAME, FILE) starts a model of stub_models.py; the server and its path."""

    def _serve(name: str, *arguments: str):
        socket = tmp_path / "sock"
        return start(command=[sys.executable, str(STUBS), name, str(socket), *arguments]), str(socket)

    return _serve


def test_calls_batches_and_echoes_are_awaited(serve):
    _, path = serve("masked")

    async def main() -> None:
        async with AsyncClient(path) as client:
            masked = await client.model("masked")
            assert (masked.name, masked.bound) == ("masked", 100)
            ids, mask = np.arange(5, dtype=np.int32), np.ones(5, np.uint8)
            out = await masked(ids=ids, mask=mask)
            assert (out["squares"].tolist(), out["sum"].tolist()) == ([0, 1, 4, 9, 16], [10])
            out = await masked.run({"ids": np.stack([ids] * 200), "mask": np.stack([mask] * 200)})
            assert out["sum"].tolist() == [[10]] * 200
            pad = bytes(4)
            wanted = _core.checksum(ids.tobytes() + pad + mask.tobytes())
            assert await masked.echo(ids=ids, mask=mask) == await client.echo(ids=ids, mask=mask) == wanted
            with pytest.raises(errors.WrongDatatype):
                await masked(ids=ids.astype(np.int64), mask=mask)
            (info,) = await client.models()
            assert info.name == "masked"
            assert await client.health() == {"classifier": "up"}
            with pytest.raises(errors.NoSuchModel):
                await client.model("cat")

    asyncio.run(main())


def test_many_coroutines_share_a_lane_of_few_slots_and_each_gets_its_own_answers(serve):
    _, path = serve("pair")

    async def main() -> None:
        async with AsyncClient(path) as client:
            pair = await client.model(slots=5)

            async def work(number: int) -> None:
                draw = np.random.default_rng(number)
                for _ in range(10):
                    a = draw.integers(-(2**20), 2**20, (int(draw.integers(1, 9)), 2, 3), np.int32)
                    b = draw.standard_normal((len(a), 5))
                    out = await pair(a=a, b=b)
                    assert np.array_equal(out["table"], a.transpose(0, 2, 1))
                    assert np.array_equal(out["flag"][:, 0], b.sum(axis=1) > 0)

            await asyncio.gather(*(work(number) for number in range(64)))
            bell = await pair._caller.bell(0)
            assert (bell.session.lane.free, bell.session.lane.in_flight) == (5, 0)

    asyncio.run(main())


def test_a_call_that_is_cancelled_or_late_leaves_the_others_alone(serve, tmp_path):
    server, path = serve("gated", str(tmp_path / "gate"))

    async def main() -> None:
        async with AsyncClient(path) as client:
            gated = await client.model(slots=2)
            first = asyncio.create_task(gated([-1]))
            await asyncio.to_thread(server.wait_for, "in the model")
            second = asyncio.create_task(gated([2]))
            lane = (await gated._caller.bell(0)).session.lane
            while lane.in_flight < 2:
                await asyncio.sleep(0.001)
            waiting = asyncio.create_task(gated([3]))
            with pytest.raises(errors.DeadlineExceeded, match="no slot of 2 was free") as caught:
                await gated([4], timeout=0.05)
            assert caught.value.not_run
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            assert lane.free == 0  # the server may be reading it
            (tmp_path / "gate").touch()
            assert (await first).tolist() == [-1, 1]
            assert (await waiting).tolist()[0] == 3
            assert (await gated([[5], [6], [7]]))[:, 0].tolist() == [5, 6, 7]
            assert (lane.free, lane.in_flight) == (2, 0)

    asyncio.run(main())


def test_a_free_slot_goes_to_the_next_when_the_first_in_line_is_cancelled(serve):
    _, path = serve("doubled")

    async def main() -> None:
        async with AsyncClient(path) as client:
            doubled = await client.model(slots=2)
            bell = await doubled._caller.bell(0)
            held = await bell.claim(2, 0)
            first, second = (asyncio.create_task(bell.claim(1, 0)) for _ in range(2))
            await asyncio.sleep(0)  # both wait
            bell.give_up(held[:1])
            first.cancel()  # it has been told, and does not know it yet
            assert await second == held[:1]
            bell.give_up(held)

    asyncio.run(main())


def test_a_late_answer_is_an_error_of_that_call(serve, tmp_path):
    server, path = serve("gated", str(tmp_path / "gate"))

    async def main() -> None:
        async with AsyncClient(path) as client:
            gated = await client.model()
            first = asyncio.create_task(gated([-1]))
            await asyncio.to_thread(server.wait_for, "in the model")
            with pytest.raises(errors.DeadlineExceeded, match="did not come in time") as caught:
                await gated([1], timeout=0.05)
            assert not caught.value.not_run
            (tmp_path / "gate").touch()
            assert (await first).tolist() == [-1, 1]

    asyncio.run(main())


def test_closing_fails_what_is_awaited(serve, tmp_path):
    server, path = serve("gated", str(tmp_path / "gate"))

    async def main() -> None:
        async with AsyncClient(path) as client:
            gated = await client.model(slots=2)
            calls = [asyncio.create_task(gated([value])) for value in (-1, 1, 2)]  # the last waits for a slot
            await asyncio.to_thread(server.wait_for, "in the model")
        for call in calls:
            with pytest.raises(errors.Closed):
                await call
        with pytest.raises(errors.Closed):
            await gated([1])

    asyncio.run(main())
    (tmp_path / "gate").touch()


def test_a_worker_that_is_killed_fails_what_is_in_flight_and_the_next_call_finds_its_successor(start, tmp_path):
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    server = start("stub_models:doubled", prefix=("env", f"PYTHONPATH={path}"))

    async def main() -> None:
        async with AsyncClient(str(server.socket)) as client:
            doubled = await client.model()
            assert (await doubled([1])).tolist() == [2]
            (worker,) = children(server.pid)
            os.kill(worker, signal.SIGSTOP)
            until(lambda: Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] == "T")
            calls = [asyncio.create_task(doubled([value])) for value in range(5)]
            lane = (await doubled._caller.bell(0)).session.lane
            while lane.in_flight < 5:
                await asyncio.sleep(0.001)
            os.kill(worker, signal.SIGKILL)
            for call in calls:
                with pytest.raises(errors.ServerGone):
                    await call
            for _ in range(10_000):
                try:
                    assert (await doubled([4])).tolist() == [8]
                    return
                except errors.ServerGone:  # nobody has the model now, or it is being started
                    await asyncio.sleep(0.01)
            pytest.fail("the model did not come back")

    asyncio.run(main())


def test_a_client_lives_longer_than_one_loop(serve):
    _, path = serve("doubled")
    client = AsyncClient(path)

    async def call(value: int) -> list:
        return (await (await client.model())([value])).tolist()

    assert [asyncio.run(call(value)) for value in (1, 2, 3)] == [[2], [4], [6]]
    client.close()


def test_prompts_stream_beside_each_other_and_leaving_one_cancels_it(start, tmp_path):
    stub, path = str(ROOT / "tests" / "stub_generators.py"), str(tmp_path / "sock")
    start(command=[sys.executable, stub, path, "waiting"])
    gate = tmp_path / "gate"

    async def main() -> None:
        async with AsyncClient(path) as client:

            async def text(prompt: str, **options) -> str:
                return "".join([piece async for piece in client.stream(prompt, **options)])

            assert await text("say:eins say:zwei") == "einszwei"
            first, second = client.stream(f"say:a until:{gate} say:b"), client.stream(f"say:c until:{gate} say:d")
            assert (await anext(first), await anext(second)) == ("a", "c")
            await second.aclose()
            assert await text("params", steps=7, temperature=0.5, top_k=3, seed=9) == "7 0.5 3 9"
            gate.touch()
            lane = first._caller._bell.session.lane
            while lane.in_flight:  # its news comes while others wait, and it does not
                assert await text("say:x") == "x"
            assert [piece async for piece in first] == ["b"]
            assert first.model_ns > 0
            assert not first.truncated
            with pytest.raises(errors.RateLimited):
                await text("fail:RateLimited")
            with pytest.raises(errors.InvalidRequest):
                await text("")
            with pytest.raises(errors.DeadlineExceeded):
                await text(f"until:{tmp_path / 'never'}", timeout=0.05)
            with pytest.raises(errors.InvalidRequest):
                client.stream("x", steps=0)

    asyncio.run(main())


def test_a_loops_client_and_threads_share_one_server(serve):
    _, path = serve("doubled")

    async def main() -> None:
        with Client(path) as threads:
            doubled = threads.model()
            async with AsyncClient(path) as client:
                ours = await client.model()
                theirs = [asyncio.to_thread(doubled, [value]) for value in range(20)]
                answers = await asyncio.gather(*theirs, *(ours([value]) for value in range(20)))
                assert [int(answer[0]) for answer in answers] == [2 * value for value in range(20)] * 2

    asyncio.run(main())
