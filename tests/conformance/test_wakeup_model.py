"""No interleaving loses a wake-up: every one is visited, on memories that reorder as much as the standards allow.

The protocol of layout.md, and the server's side of it. How the callers of a Go client share a ring is explored
in Go, beside their code (go-shm-client/internal/session/model_test.go).
"""

import pytest
from model import Interleaving, StoreBuffers, System, Views, explore
from wakeup_programs import SERVER, both_ways, one_lane, stream, two_lanes

X86 = StoreBuffers(fifo=True)
UNORDERED = StoreBuffers(fifo=False)
C11 = Views()
WEAK = pytest.mark.parametrize("memory", [X86, UNORDERED, C11], ids=["x86", "unordered-stores", "c11-views"])


SLEEPS = ("sleeper", "server")


def assert_no_wake_up_is_lost(system: System, memory: Interleaving) -> None:
    result = explore(system, memory, sleeps=SLEEPS)
    assert result.stuck is None, result.stuck
    assert result.trapped is None, result.trapped
    assert result.states > 100  # it did look


def assert_a_wake_up_is_lost(system: System, memory: Interleaving) -> str:
    result = explore(system, memory, sleeps=SLEEPS, until_stuck=True)
    assert result.stuck, f"{result.states} states, and none in which somebody sleeps for ever"
    return result.stuck


# ---- the protocol of layout.md, as core.c and the clients have it


@WEAK
def test_with_both_fences_no_wake_up_is_lost(memory):
    assert_no_wake_up_is_lost(one_lane(2, noise=memory is not C11), memory)


@WEAK
@pytest.mark.parametrize("fence", ["S2", "W2"])
def test_without_either_fence_a_wake_up_is_lost(memory, fence):
    trace = assert_a_wake_up_is_lost(one_lane(1, noise=False, cut=(fence,)), memory)
    assert "sleeper is at: wait" in trace


@pytest.mark.parametrize("cut", [("S2",), ("W2",), ("S2", "W2")])
def test_it_is_the_memory_and_not_the_order_of_steps_that_the_fences_are_for(cut):
    assert_no_wake_up_is_lost(one_lane(2, noise=True, cut=cut), Interleaving())


def test_on_x86_the_exchange_that_a_seq_cst_store_becomes_is_the_sleepers_fence_but_the_waker_needs_its_own():
    server = SERVER.replace("store parked", "store.sc parked")
    assert_no_wake_up_is_lost(one_lane(2, noise=True, cut=("S2",), server=server), X86)
    assert_a_wake_up_is_lost(one_lane(1, noise=False, cut=("W2",), server=server), X86)
    # nor is it C11's promise: what a compiler for another machine makes of it need not be a fence
    assert_a_wake_up_is_lost(one_lane(1, noise=False, cut=("S2",)), C11)


def test_a_bell_without_news_and_a_wake_of_the_poller_are_harmless_on_c11s_memory():
    assert_no_wake_up_is_lost(one_lane(1, noise=True), C11)


@pytest.mark.parametrize("memory", [X86, C11], ids=["x86", "c11-views"])
def test_several_publishers_whose_bells_come_late_or_are_dropped_lose_no_wake_up(memory):
    assert_no_wake_up_is_lost(one_lane(2, noise=memory is X86, callers=2), memory)


def test_three_publishers_lose_no_wake_up():
    assert_no_wake_up_is_lost(one_lane(3, noise=False, callers=3), X86)


def test_one_sleeper_for_two_lanes_misses_neither():
    assert_no_wake_up_is_lost(two_lanes(1), X86)
    assert_a_wake_up_is_lost(two_lanes(1, cut=("S2",)), X86)


@WEAK
def test_a_conversation_in_which_both_sides_sleep_never_stops(memory):
    assert_no_wake_up_is_lost(both_ways(1 if memory is C11 else 3), memory)


@WEAK
@pytest.mark.parametrize("fence", ["S2", "W2"])
def test_a_conversation_without_a_fence_stops(memory, fence):
    assert_a_wake_up_is_lost(both_ways(1, cut=(fence,)), memory)


def test_bells_must_not_be_read_between_the_last_look_and_the_sleep():
    """The bells of the last wake are read late. After S3 would be too late: such a byte may be for this very sleep."""
    late = SERVER.replace("        wait due", "        if not due goto sleep\n        read bells\nsleep:  wait due")
    late = late.replace(
        "        if not due goto park\n        read bells                      # poller_read_bells\n", ""
    )
    late = late.replace("        due = 0\n", "")
    assert late.count("read bells") == 2  # the other is poller_look's
    assert_a_wake_up_is_lost(one_lane(2, noise=False, server=late), Interleaving())


def test_the_flag_must_be_up_before_the_last_look():
    text = SERVER.replace("store parked = 1                # S1, poller_flag(1)", "fence")
    text = text.replace("        wait due", "        store parked = 1\n        wait due")
    assert_a_wake_up_is_lost(one_lane(1, noise=False, server=text), Interleaving())


# ---- a prompt's text


@WEAK
def test_the_last_text_of_a_stream_is_never_forgotten(memory):
    result = explore(stream(3), memory)
    assert result.stuck is None, result.stuck
    assert result.trapped is None, result.trapped


@WEAK
@pytest.mark.parametrize("fence", ["P2", "C2"])
def test_without_either_fence_the_last_text_waits_for_a_token_that_may_not_come(memory, fence):
    assert "client is at: load t = more[head]" in assert_a_wake_up_is_lost(stream(2, cut=(fence,)), memory)
