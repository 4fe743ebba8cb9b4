"""The protocols of layout.md as programs for the model checker, line by line beside what they model.

Marked lines (`# S2`) can be cut out by their mark, to see what they are good for.
"""

from model import System

# shm_server/native/core.c, poller_next, and poller_park with its two notes: the flag is cleared after epoll_wait, and
# the bells are read away only later: when a scan has found nothing, before the next park, or now and then once one
# has found something (poller_look). A spin is left out: it only looks, and what it sees leads to a scan. What is
# consumed is never looked at again, as with ring_drain.
SERVER = """
scan:   load t = turn[head]             # poller_scan, ring_peek (acquire)
        if t goto take
        if not due goto park
        read bells                      # poller_read_bells
        due = 0
park:   store parked = 1                # S1, poller_flag(1)
        fence                           # S2
        load t = turn[head]             # S3, poller_pending
        if t goto unpark
        wait due=bells woken=wake_fd    # S4, epoll_wait
        if not woken goto unpark
        read wake_fd
        woken = 0
unpark: store parked = 0                # S5, poller_flag(0)
        goto scan
take:   head = head + 1
        choose look = 0 1               # poller_look
        if not look goto taken
        read bells
        due = 0
taken:  if head != N goto scan
        ring served
        goto scan
"""

# ring_bell in ring.h, and Lane.publish in the Go client.
WAKER = """
        store turn[{at}] = 1            # W1
        fence                           # W2
        load p = parked                 # W3
        if not p goto skip{at}
        swap p = parked 0               # W4
        if not p goto skip{at}
        ring bells
skip{at}: p = 0
"""

# Two lanes, each with its socket, and one thread that sleeps for both.
SERVER_OF_TWO = """
scan:   load t = turn_a[head_a]
        if t goto take_a
        load t = turn_b[head_b]
        if t goto take_b
        if not due_a goto quiet
        read bells_a
        due_a = 0
quiet:  if not due_b goto park
        read bells_b
        due_b = 0
park:   store parked_a = 1
        store parked_b = 1
        fence                           # S2
        load t = turn_a[head_a]
        if t goto unpark
        load t = turn_b[head_b]
        if t goto unpark
        wait due_a=bells_a due_b=bells_b
unpark: store parked_a = 0
        store parked_b = 0
        goto scan
take_a: head_a = head_a + 1
        goto count
take_b: head_b = head_b + 1
count:  if head_a + head_b != N goto scan
        ring served
        goto scan
"""

# One side asks and sleeps, the other answers and sleeps, each with its own flag, ring and socket.
ASKER = """
ask:    store ask_turn[sent] = 1
        fence                           # W2
        load p = server_parked
        if not p goto sent_it
        swap p = server_parked 0
        if not p goto sent_it
        ring to_server
sent_it: sent = sent + 1
look:   store client_parked = 1
        fence                           # S2
        load t = answer_turn[head]
        if t goto got
        wait due=to_client
        store client_parked = 0
        read to_client
        goto look
got:    store client_parked = 0
        head = head + 1
        if sent < N goto ask
        end
"""
ANSWERER = """
scan:   load t = ask_turn[head]
        if t goto take
        if not due goto park
        read to_server
        due = 0
park:   store server_parked = 1
        fence                           # S2
        load t = ask_turn[head]
        if t goto unpark
        wait due=to_server
unpark: store server_parked = 0
        goto scan
take:   store answer_turn[head] = 1
        head = head + 1
        fence                           # W2
        load p = client_parked
        if not p goto scan
        swap p = client_parked 0
        if not p goto scan
        ring to_client
        goto scan
"""

# "Streaming" in layout.md: ring_append in stream.h, and a client that takes a `more`. How the client learns of the
# `more` is the subject of the programs above: here it polls.
APPENDER = """
next:   if text == N goto done
        text = text + 1
        store length = text             # P1
        fence                           # P2
        load a = acknowledged           # P3
        if a != mores goto next
        store more[mores] = text
        mores = mores + 1
        goto next
done:   end
"""
READER = """
look:   load t = more[head]
        if not t goto look
        head = head + 1
        store acknowledged = head       # C1
        fence                           # C2
        load seen = length              # C3
        if seen < N goto look
        end
"""


def without(text: str, marks: tuple[str, ...]) -> str:
    return "\n".join(line for line in text.splitlines() if not any(f"# {mark}" in line for mark in marks))


def one_lane(
    publishes: int, *, noise: bool, cut: tuple[str, ...] = (), server: str = SERVER, callers: int = 1
) -> System:
    """`callers` threads publish `publishes` entries in all. With `noise` a bell without news and a wake() come by."""
    each = publishes // callers
    threads = {"sleeper": without(server, cut)}
    for caller in range(callers):
        text = "".join(WAKER.format(at=caller * each + i) for i in range(each))
        threads[f"waker {caller}"] = without(text, cut) + "\ntake served\nring served\nend"
    if noise:
        threads["noise"] = "ring bells\nring wake_fd\nend"
    sockets = {"bells": (1, 2), "wake_fd": (1, 1), "served": (1, 1)}
    return System(threads, {"turn": publishes + 1, "parked": 1}, sockets, {"N": publishes})


def two_lanes(publishes: int, *, cut: tuple[str, ...] = ()) -> System:
    threads = {"sleeper": without(SERVER_OF_TWO, cut)}
    for lane in "ab":
        text = "".join(WAKER.format(at=i) for i in range(publishes))
        for name in ("turn[", "parked", "bells"):
            text = text.replace(name, name.replace("[", "") + f"_{lane}" + ("[" if "[" in name else ""))
        threads[f"waker {lane}"] = without(text, cut) + "\ntake served\nring served\nend"
    locations = {"turn_a": publishes + 1, "turn_b": publishes + 1, "parked_a": 1, "parked_b": 1}
    return System(threads, locations, {"bells_a": (1, 1), "bells_b": (1, 1), "served": (1, 1)}, {"N": 2 * publishes})


def both_ways(rounds: int, *, cut: tuple[str, ...] = ()) -> System:
    threads = {"client": without(ASKER, cut), "server": without(ANSWERER, cut)}
    locations = {"ask_turn": rounds + 1, "answer_turn": rounds + 1, "server_parked": 1, "client_parked": 1}
    return System(threads, locations, {"to_server": (1, 1), "to_client": (1, 1)}, {"N": rounds})


def stream(texts: int, *, cut: tuple[str, ...] = ()) -> System:
    """The server appends `texts` times and then waits for a token: the client must come to see all of it."""
    threads = {"server": without(APPENDER, cut), "client": without(READER, cut)}
    locations = {"length": 1, "acknowledged": 1, "more": texts + 1}
    return System(threads, locations, {}, {"N": texts})
