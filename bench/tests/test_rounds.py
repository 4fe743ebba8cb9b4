from collections import Counter

from bench.rounds import Progress, interleaved

EVERYBODY = ["shm", "uds", "http", "grpc", "floor"]
ROUNDS = 20


def order(seed: int, name: str = "echo") -> list[tuple[str, ...]]:
    """Who comes when, a tuple a round."""
    everything = list(interleaved(EVERYBODY, ROUNDS, seed, name, Progress()))
    return [tuple(everything[i : i + len(EVERYBODY)]) for i in range(0, len(everything), len(EVERYBODY))]


def test_every_round_visits_everybody_once():
    assert [Counter(each) for each in order(1)] == [Counter(EVERYBODY)] * ROUNDS


def test_the_order_comes_from_the_seed_and_the_section():
    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1, "echo") != order(1, "classify")


def test_rounds_differ_in_their_order():
    assert len(set(order(1))) > 10
