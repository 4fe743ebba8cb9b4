"""An explicit-state model checker for small concurrent programs on weak memory.

    system = System({"a": "store x = 1\nfence\nload r = y\nend", ...}, locations={"x": 1, "y": 1})
    result = explore(system, StoreBuffers(fifo=True))
    assert result.stuck is None, result.stuck            # a trace, one step a line

Breadth-first over every interleaving, and over everything that the memory may do in between. A thread is a little
assembly program, one instruction a line, `label:` in front where it is jumped to, `# comment` behind:

    REG = EXPR              goto L               if EXPR goto L             end
    load REG = LOC          store LOC = EXPR     swap REG = LOC EXPR        fence
    choose REG = VALUE...   any of them
    ring SOCKET             one byte; dropped when the socket is full
    read SOCKET             take bytes away, 1 to all of them, if there are any; never blocks
    take SOCKET             the same, but blocks until there are any
    wait REG=SOCKET...      block until a socket has bytes (level-triggered, like epoll); REG = 1 for each that was seen

LOC and SOCKET are a name or name[EXPR]. `store`, `load` are release and acquire; `store.sc` is what x86 makes of a
seq_cst store. A swap is acquire, release and acts on the newest value. `ring` and `read` go through the kernel's locks:
who reads a byte sees what its sender had stored. `wait` gives no order at all.

Steps on registers, and choices, are run together with the step before them: nobody can see them.
"""

import itertools
import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


def _with(items: tuple, at: int, item) -> tuple:
    return (*items[:at], item, *items[at + 1 :])


# ---- memories: what a load may return and when a store is seen ------------------------------------------------------


class Interleaving:
    """Sequential consistency: one memory, each access at once."""

    def initial(self, threads: int, size: int, sockets: int):
        return (0,) * size

    def load(self, memory, thread: int, at: int) -> list[tuple[int, object]]:
        return [(memory[at], memory)]

    def store(self, memory, thread: int, at: int, value: int, sc: bool):
        return _with(memory, at, value)

    def exchange(self, memory, thread: int, at: int, new: int):
        """(old value, memory afterwards), or None while the thread must wait for the memory."""
        return memory[at], self.store(memory, thread, at, new, True)

    def fence(self, memory, thread: int):
        return memory

    def send(self, memory, thread: int, socket: int):
        return memory

    def receive(self, memory, thread: int, socket: int):
        return memory

    def drains(self, memory, thread: int) -> list[tuple[int, object]]:
        """What the memory may do by itself: (location that becomes visible, memory afterwards)."""
        return []


class StoreBuffers(Interleaving):
    """A buffer of stores for each thread: later loads pass them. A seq_cst store from C is one of them: only a fence
    orders it before a later load, which is all that C11 promises where that load is an acquire.

    With `fifo` stores leave in order, as on x86 (TSO). Without, stores to different places leave in any order: then
    even a release does not hold, which is weaker than any machine that C11 compiles to.
    """

    def __init__(self, *, fifo: bool) -> None:
        self.fifo = fifo

    def initial(self, threads: int, size: int, sockets: int):
        return (0,) * size, ((),) * threads

    def load(self, memory, thread, at):
        words, buffers = memory
        for where, value in reversed(buffers[thread]):
            if where == at:
                return [(value, memory)]
        return [(words[at], memory)]

    def store(self, memory, thread, at, value, sc):
        words, buffers = memory
        if sc:
            if buffers[thread]:
                return None
            return _with(words, at, value), buffers
        return words, _with(buffers, thread, (*buffers[thread], (at, value)))

    def exchange(self, memory, thread, at, new):
        words, buffers = memory
        if buffers[thread]:
            return None
        return words[at], (_with(words, at, new), buffers)

    def fence(self, memory, thread):
        return None if memory[1][thread] else memory

    def send(self, memory, thread, socket):
        return None if memory[1][thread] else memory

    def drains(self, memory, thread):
        words, buffers = memory
        found, seen = [], set()
        for i, (at, value) in enumerate(buffers[thread]):
            if at not in seen:
                left = buffers[thread][:i] + buffers[thread][i + 1 :]
                after = _with(words, at, value), _with(buffers, thread, left)
                found.append((at, after))
            if self.fifo:
                break
            seen.add(at)
        return found


class Views(Interleaving):
    """C11's release and acquire as views, and seq_cst fences, nothing stronger: a load may return any value that is not
    older than what its thread has already seen of that place, so two threads may see stores in different orders.

    A place is a history of (value, view of its writer). A view says for every place how far into its history its holder
    has seen. Acquire adds the writer's view to the reader's; a fence exchanges views with all fences before it. Stores
    take effect in the order of execution, which for one place is also its modification order: in these programs a
    place has one writer, or all accesses to it are seq_cst.
    Histories are cut where no thread can look any more, which keeps the number of states finite.
    """

    def initial(self, threads: int, size: int, sockets: int):
        nothing = (0,) * size
        return (((0, nothing),),) * size, (nothing,) * threads, (nothing,) * sockets, nothing

    def load(self, memory, thread, at):
        histories, views, sockets, fences = memory
        history, view = histories[at], views[thread]
        found = []
        for i in range(view[at], len(history)):
            value, written = history[i]
            seen = self._join(view, written)
            if seen[at] < i:
                seen = _with(seen, at, i)
            found.append((value, self._trim(histories, _with(views, thread, seen), sockets, fences)))
        return found

    def store(self, memory, thread, at, value, sc):
        histories, views, sockets, fences = memory
        view = views[thread]
        view = _with(view, at, len(histories[at]))
        histories = _with(histories, at, (*histories[at], (value, view)))
        memory = self._trim(histories, _with(views, thread, view), sockets, fences)
        return self.fence(memory, thread) if sc else memory

    def exchange(self, memory, thread, at, new):
        histories, views, sockets, fences = memory
        old, written = histories[at][-1]
        memory = histories, _with(views, thread, self._join(views[thread], written)), sockets, fences
        return old, self.store(memory, thread, at, new, False)

    def fence(self, memory, thread):
        histories, views, sockets, fences = memory
        both = self._join(views[thread], fences)
        return self._trim(histories, _with(views, thread, both), sockets, both)

    def send(self, memory, thread, socket):
        histories, views, sockets, fences = memory
        return histories, views, _with(sockets, socket, self._join(sockets[socket], views[thread])), fences

    def receive(self, memory, thread, socket):
        histories, views, sockets, fences = memory
        return self._trim(histories, _with(views, thread, self._join(views[thread], sockets[socket])), sockets, fences)

    @staticmethod
    def _join(one, other):
        return one if one is other else tuple(map(max, one, other))

    @staticmethod
    def _trim(histories, views, sockets, fences):
        low = tuple(map(min, *views)) if len(views) > 1 else views[0]
        if not any(low):
            return histories, views, sockets, fences

        def down(view):
            return tuple([v - n if v > n else 0 for v, n in zip(view, low, strict=True)])

        cut = tuple([tuple([(v, down(w)) for v, w in h[n:]]) for h, n in zip(histories, low, strict=True)])
        return cut, tuple(map(down, views)), tuple(map(down, sockets)), down(fences)


# ---- programs ------------------------------------------------------------------------------------------------------

NAME = re.compile(r"[A-Za-z_]\w*")
WORDS = {"and", "or", "not", "if", "else"}


@dataclass
class Op:
    kind: str
    text: str
    registers: tuple[int, ...] = ()
    places: tuple[Callable, ...] = ()  # of the registers: the index of a location or socket
    values: tuple[Callable, ...] = ()
    target: int = -1
    sc: bool = False
    uses: set[int] = field(default_factory=set)  # registers that it reads
    live: frozenset[int] = frozenset()  # registers that matter when it is the next


class Program:
    """A thread's text, assembled."""

    def __init__(self, name: str, text: str, system: "System") -> None:
        self.name, self.system = name, system
        self.names: dict[str, int] = {}
        self.ops: list[Op] = []
        lines, labels = [], {}
        for line in text.splitlines():
            line = line.partition("#")[0].strip()
            while match := re.match(r"(\w+):\s*", line):
                labels[match[1]] = len(lines)
                line = line[match.end() :]
            if line:
                lines.append(line)
        for line in lines:
            self.used: set[int] = set()
            op = self._parse(line, labels)
            op.uses = self.used
            self.ops.append(op)
        self._liveness()

    def _liveness(self) -> None:
        """Which registers matter where. The others are set to 0 there: states that differ only in them are one."""
        changed = True
        while changed:
            changed = False
            for i in reversed(range(len(self.ops))):
                op = self.ops[i]
                following = {"goto": [op.target], "end": []}.get(op.kind, [i + 1])
                if op.kind == "if":
                    following = [*following, op.target]
                after = frozenset().union(*(self.ops[n].live for n in following))
                live = (after - frozenset(op.registers)) | op.uses
                changed |= live != op.live
                op.live = live

    def forget(self, pc: int, registers: tuple) -> tuple:
        """The registers with those that do not matter at `pc` set to 0."""
        live = self.ops[pc].live
        return tuple([value if i in live else 0 for i, value in enumerate(registers)])

    def register(self, name: str) -> int:
        return self.names.setdefault(name, len(self.names))

    def expression(self, text: str) -> Callable:
        def replace(match: re.Match) -> str:
            name = match[0]
            if name in WORDS:
                return name
            if name in self.system.constants:
                return str(self.system.constants[name])
            self.used.add(self.register(name))
            return f"r[{self.register(name)}]"

        return eval(f"lambda r: int({NAME.sub(replace, text)})")  # the tests' own text

    def place(self, text: str, table: dict[str, int]) -> Callable:
        name, _, index = text.partition("[")
        base = table[name]
        inner = self.expression(index.rstrip("]")) if index else None
        return (lambda r: base + inner(r)) if inner else (lambda r: base)

    def _parse(self, line: str, labels: dict[str, int]) -> Op:
        word, _, rest = line.partition(" ")
        kind, _, order = word.partition(".")
        op = Op(kind, line, sc=order == "sc")
        locations, sockets = self.system.locations, self.system.sockets
        if kind == "goto":
            op.target = labels[rest]
        elif kind == "if":
            condition, _, label = rest.rpartition(" goto ")
            op.values, op.target = (self.expression(condition),), labels[label]
        elif kind in ("load", "swap"):
            register, _, rest = rest.partition(" = ")
            where, *values = rest.split()
            op.registers, op.places = (self.register(register),), (self.place(where, locations),)
            op.values = tuple(map(self.expression, values))
        elif kind == "store":
            where, _, value = rest.partition(" = ")
            op.places, op.values = (self.place(where, locations),), (self.expression(value),)
        elif kind in ("ring", "read", "take"):
            op.places = (self.place(rest, sockets),)
        elif kind == "wait":
            pairs = [pair.split("=") for pair in rest.split()]
            op.registers = tuple(self.register(name) for name, _ in pairs)
            op.places = tuple(self.place(where, sockets) for _, where in pairs)
        elif kind == "choose":
            register, _, values = rest.partition(" = ")
            op.registers, op.values = (self.register(register),), tuple(map(self.expression, values.split()))
        elif kind not in ("fence", "end"):
            name, _, value = line.partition(" = ")
            op.kind, op.registers, op.values = "set", (self.register(name),), (self.expression(value),)
        return op


@dataclass
class System:
    """Threads by name, the size of every named location (an array of words, all 0), and the capacity of each socket."""

    threads: dict[str, str]
    locations: dict[str, int]
    sockets: dict[str, tuple[int, int]] = field(default_factory=dict)  # name: (how many, bytes that each holds)
    constants: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes, self.size = self.locations, sum(self.locations.values())
        self.location_names = [f"{name}[{i}]" if n > 1 else name for name, n in sizes.items() for i in range(n)]
        self.locations = {name: sum(list(sizes.values())[:i]) for i, name in enumerate(sizes)}
        self.capacities = [capacity for count, capacity in self.sockets.values() for _ in range(count)]
        counts = [count for count, _ in self.sockets.values()]
        self.sockets = {name: sum(counts[:i]) for i, name in enumerate(self.sockets)}
        self.programs = [Program(name, text, self) for name, text in self.threads.items()]


# ---- the search ------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    states: int
    stuck: str | None  # how it comes to a state without a way on although a thread has not reached `end`
    trapped: str | None  # how it comes to a state from where no such end can be reached any more


def explore(
    system: System,
    memory: Interleaving,
    *,
    sleeps: tuple[str, ...] = (),
    until_stuck: bool = False,
    limit: int = 3_000_000,
) -> Result:
    """Visit every reachable state.

    sleeps       threads that may be blocked in the end: servers
    until_stuck  stop at the first stuck state; `trapped` is then not looked for
    """
    return Search(system, memory, sleeps).run(until_stuck, limit)


class Search:
    def __init__(self, system: System, memory: Interleaving, sleeps: tuple[str, ...]) -> None:
        self.system, self.memory = system, memory
        self.may_sleep = [program.name in sleeps for program in system.programs]
        self.settled: dict = {}

    def run(self, until_stuck: bool, limit: int) -> Result:
        system = self.system
        begun = [()]
        for i, program in enumerate(system.programs):
            settled = self.settle(i, 0, (0,) * len(program.names))
            begun = [(*threads, thread) for threads in begun for thread in settled]
        memory = self.memory.initial(len(system.programs), system.size, len(system.capacities))
        states = [(threads, memory, (0,) * len(system.capacities)) for threads in begun]
        numbers = {state: number for number, state in enumerate(states)}
        parent, edges_from, edges_to, good = array("l", [-1] * len(states)), array("l"), array("l"), []
        stuck = None
        at = 0
        while at < len(states):
            moves = 0
            for state, _ in self.moves(states[at]):
                if state == states[at]:
                    continue  # it polls: that is no way on
                moves += 1
                number = numbers.get(state)
                if number is None:
                    number = numbers[state] = len(states)
                    states.append(state)
                    parent.append(at)
                edges_from.append(at)
                edges_to.append(number)
            if not moves:
                if self.finished(states[at]):
                    good.append(at)
                elif stuck is None:
                    stuck = at
                    if until_stuck:
                        return Result(len(states), self.trace(states, parent, stuck), None)
            at += 1
            if at > limit:
                raise RuntimeError(f"more than {limit} states")
        trapped = self.first_trapped(len(states), edges_from, edges_to, good)
        return Result(
            len(states),
            None if stuck is None else self.trace(states, parent, stuck),
            None if trapped is None else self.trace(states, parent, trapped),
        )

    @staticmethod
    def first_trapped(count: int, edges_from: array, edges_to: array, good: list[int]) -> int | None:
        back: list[list[int]] = [[] for _ in range(count)]
        for source, target in zip(edges_from, edges_to, strict=True):
            back[target].append(source)
        reached = bytearray(count)
        for number in good:
            reached[number] = 1
        while good:
            for source in back[good.pop()]:
                if not reached[source]:
                    reached[source] = 1
                    good.append(source)
        missing = reached.find(0)
        return None if missing < 0 else missing

    def finished(self, state) -> bool:
        return all(
            sleeps or program.ops[pc].kind == "end"
            for sleeps, program, (pc, _) in zip(self.may_sleep, self.system.programs, state[0], strict=True)
        )

    def trace(self, states: list, parent: array, at: int) -> str:
        path = [at]
        while parent[path[-1]] >= 0:
            path.append(parent[path[-1]])
        path.reverse()
        lines = []
        for before, after in itertools.pairwise(path):
            lines.append(next(text for state, text in self.moves(states[before]) if state == states[after]))
        for i, program in enumerate(self.system.programs):
            lines.append(f"{program.name} is at: {program.ops[states[at][0][i][0]].text}")
        return "\n" + "\n".join(lines)

    def settle(self, thread: int, pc: int, registers: tuple) -> list[tuple[int, tuple]]:
        """Run what nobody can see, up to the next step that somebody can: one outcome for each choice."""
        key = (thread, pc, registers)
        if (found := self.settled.get(key)) is not None:
            return found
        program, outcomes, todo, seen = self.system.programs[thread], {}, [(pc, registers)], set()
        while todo:
            at = pc, registers = todo.pop()
            if at in seen:
                continue
            seen.add(at)
            op = program.ops[pc]
            if op.kind in ("set", "choose"):
                for value in op.values:
                    todo.append((pc + 1, _with(registers, op.registers[0], value(registers))))
            elif op.kind == "goto" or (op.kind == "if" and op.values[0](registers)):
                todo.append((op.target, registers))
            elif op.kind == "if":
                todo.append((pc + 1, registers))
            else:
                outcomes[pc, program.forget(pc, registers)] = None
        self.settled[key] = result = list(outcomes)
        return result

    def moves(self, state) -> Iterator[tuple[tuple, str]]:
        threads, words, sockets = state
        for i, (pc, registers) in enumerate(threads):
            program = self.system.programs[i]
            op = program.ops[pc]
            for now, after, full, said in self.step(i, op, registers, words, sockets):
                for thread in self.settle(i, pc + 1, now):
                    yield (
                        ((*threads[:i], thread, *threads[i + 1 :]), after, full),
                        f"{program.name:>12}: {op.text}{said}",
                    )
            for at, after in self.memory.drains(words, i):
                name = self.system.location_names[at]
                yield (threads, after, sockets), f"{program.name:>12}: (its store to {name} is seen)"

    def step(self, thread: int, op: Op, r: tuple, words, sockets: tuple) -> Iterator[tuple]:
        """(registers, memory, sockets, remark) for every outcome of one step."""
        memory, kind = self.memory, op.kind
        if kind == "load":
            for value, after in memory.load(words, thread, op.places[0](r)):
                yield _with(r, op.registers[0], value), after, sockets, f"  -> {value}"
        elif kind == "store":
            after = memory.store(words, thread, op.places[0](r), op.values[0](r), op.sc)
            if after is not None:
                yield r, after, sockets, ""
        elif kind == "swap":
            done = memory.exchange(words, thread, op.places[0](r), op.values[0](r))
            if done is not None:
                yield _with(r, op.registers[0], done[0]), done[1], sockets, f"  -> {done[0]}"
        elif kind == "fence":
            after = memory.fence(words, thread)
            if after is not None:
                yield r, after, sockets, ""
        elif kind == "ring":
            at = op.places[0](r)
            after = memory.send(words, thread, at)
            if after is not None:
                if sockets[at] < self.system.capacities[at]:
                    yield r, after, _with(sockets, at, sockets[at] + 1), ""
                else:
                    yield r, after, sockets, "  (EAGAIN: dropped)"
        elif kind in ("read", "take"):
            at = op.places[0](r)
            after = memory.receive(words, thread, at)
            if not sockets[at] and kind == "read":
                yield r, words, sockets, "  (EAGAIN: nothing there)"
            for left in range(sockets[at]):
                yield r, after, _with(sockets, at, left), f"  ({sockets[at] - left} taken)"
        elif kind == "wait":
            ready = [i for i, place in enumerate(op.places) if sockets[place(r)]]
            for mask in range(1, 1 << len(ready)):
                now = r
                for i in ready:
                    now = _with(now, op.registers[i], int(mask >> ready.index(i) & 1))
                yield now, words, sockets, ""
