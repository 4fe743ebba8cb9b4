"""Prompts: what the lane adds to a generator's own time, an echo of text, and pictures beside a generation."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from .. import plots, tables
from ..bench import Bench
from ..contestants import DEFAULT, ENGINE, HTTP, PARKED, SPINNING, WAKE_FLOOR, Contestant
from ..load import LoadError
from ..plan import Plan
from ..rounds import interleaved
from ..servers import PROMPTS, SCRIPTED
from ..tally import Tally, part

TITLE = "Prompts"
QUESTION = "What does the prompt lane add to a generator's own time, and what does a generation do to classifications?"
HOW = (
    "The same prompts go to the same generator in process and through the lane: to one that has its pieces at once, so "
    "that nothing but the lane is seen, to one that makes a piece each 500 us, and to the bundled model. " + plots.TAILS
)

LANES = tuple(
    replace(each, server=name)
    for each, name in ((SPINNING, "scripted-spinning"), (DEFAULT, "scripted-default"), (PARKED, "scripted-parked"))
)
# One server with the bundled model is enough. After a pause it sleeps; without one it still spins when the next comes.
MODEL_LANES = (
    replace(SPINNING, server=PROMPTS, label="shm, client spinning, server by default"),
    replace(PARKED, server=PROMPTS, label="shm, client parked, 1 ms after the last reply"),
)
ECHOES = (*LANES, HTTP)
# With a generation in progress and without, in the same server process.
CLASSIFIERS = (
    replace(DEFAULT, server=PROMPTS),
    replace(SPINNING, server=PROMPTS, label="shm, client spinning, server by default"),
)
# Wake-ups in a second, a few less than are due.
WAKE_RATE = 1800
SPEAKER = replace(DEFAULT, server=PROMPTS)
# Before and after the classifications that are timed, the generation is in progress as well.
MARGIN_SECONDS = 0.2


@dataclass(frozen=True)
class Kind:
    """Prompts of a kind, and what is measured with them."""

    key: str
    label: str
    generator: str  # of prompt_limit.py
    steps: int
    texts: tuple[str, ...]
    lanes: tuple[Contestant, ...] = LANES
    op: str = "prompt"
    warm_up: int = 3

    def __str__(self) -> str:
        return self.label


OPENINGS = ("To be, or not to be", "Enter the KING.", "O Romeo, Romeo!", "FIRST WITCH. When shall we three meet")
INSTANT = Kind("instant", "pieces at once", "scripted", 64, tuple(f"instant {text}" for text in OPENINGS), warm_up=100)
PACED = Kind("paced", "a piece each 500 us", "scripted", 32, ("paced 500",), op="stamped")
MODEL = Kind("tiny", "gemma-tiny", "tiny", 32, OPENINGS, MODEL_LANES)
KINDS = (INSTANT, PACED, MODEL)
# Goes on beside classifications.
LONG = Kind("long", "gemma-tiny", "tiny", 400, OPENINGS[:2])

PARTS = {
    "first": "From the call to the first piece",
    "piece": "From the first piece to the last, by the pieces between",
    "made": "From a piece's being made to its being in Go's hands",
    "echo": "Echo of 200 bytes of text",
    "classify": "Classify, one caller, and beside a generation",
    "beside": "A token of that generation",
}
# How the keys of the rows begin that are drawn together.
PLOTTED = ("first/instant", "made/paced", "echo", ("classify", "generating"))


def servers(_: Plan) -> tuple[str, ...]:
    return (PROMPTS, *SCRIPTED)


def measure(bench: Bench) -> dict[str, Any]:
    rounds = max(1, bench.plan.rounds // 2)
    prompts = {kind: _prompts(bench, kind) for kind in (*KINDS, LONG)}
    files = {kind: _file(bench, kind, of_kind) for kind, of_kind in prompts.items()}
    asked = {
        (kind, each): [
            Tally(f"{name}/{kind.key}/{each.key}", f"{kind.label}: {each.label}", part=name)
            for name in ("first", "made" if kind.op == "stamped" else "piece")
        ]
        for kind in KINDS
        for each in (ENGINE, *kind.lanes)
    }
    floor = Tally(f"made/{PACED.key}/{WAKE_FLOOR.key}", f"each 500 us: {WAKE_FLOOR.label}", part="made")
    echoes = {each: Tally(f"echo/{each.key}", each.label, part="echo") for each in ECHOES}
    alone = {each: Tally(f"classify/{each.key}", each.label, part="classify") for each in CLASSIFIERS}
    beside = {
        each: [
            Tally(f"generating/{each.key}", f"{each.label}; beside a generation", part="classify"),
            Tally(f"beside/{each.key}", each.label, part="beside"),
        ]
        for each in CLASSIFIERS
    }
    places = [
        *asked,
        ("wake-up", WAKE_FLOOR),
        *product(("echo",), ECHOES),
        *product(("classify", "generating"), CLASSIFIERS),
    ]
    for what, each in interleaved(places, rounds, bench.seed, "prompt", bench.progress):
        seconds = bench.plan.seconds
        if each is WAKE_FLOOR:
            run = bench.floor.run(each.transport, int(seconds * WAKE_RATE), seconds)
            floor.add(run | {"wall_s": 0.0})  # one way, at a pace: so many a second says nothing
        elif what == "echo":
            bench.call(echoes[each], each, "echo-prompt", seconds=seconds)
        elif what == "classify":
            bench.call(alone[each], each, "classify", seconds=seconds)
        elif what == "generating":
            _generating(bench, each, files[LONG], *beside[each])
        elif each is ENGINE:
            first, later = asked[what, each]
            stamped = what.op == "stamped"
            run = bench.fleet.generator.measure(what.generator, prompts[what], seconds, stamped)
            first.add(run)
            later.add(part(run, "pieces"))
        else:
            first, later = asked[what, each]
            pause = "1ms" if what is MODEL and each.spin == "0" else "0"
            flags = {"seconds": seconds, "prompts": files[what], "warmup": what.warm_up, "pause": pause}
            if run := bench.call(first, each, what.op, **flags):
                later.add(part(run, "pieces"))
    tallies = [each for pair in asked.values() for each in pair]
    tallies += [floor, *echoes.values(), *alone.values(), *(each for pair in beside.values() for each in pair)]
    rows = [tally.row() for tally in tallies]
    _compare(rows)
    return {"rows": sorted(rows, key=lambda row: list(PARTS).index(row["part"]))}


def _prompts(bench: Bench, kind: Kind) -> list[dict[str, Any]]:
    """Prompts, each with the reply that the generator gives in process: it is the same wherever it is given."""
    prompts = [{"text": text, "steps": kind.steps, "seed": bench.seed + i} for i, text in enumerate(kind.texts)]
    if kind.op == "stamped":
        return [{**prompt, "reply": "", "pieces": kind.steps} for prompt in prompts]
    replies = bench.fleet.generator.reply(kind.generator, prompts)
    return [prompt | answer for prompt, answer in zip(prompts, replies, strict=True)]


def _file(bench: Bench, kind: Kind, prompts: list[dict[str, Any]]) -> str:
    file: Path = bench.directory / f"prompts-{kind.key}.json"
    file.write_text(json.dumps(prompts))
    return str(file)


def _generating(bench: Bench, each: Contestant, prompts: str, tally: Tally, tokens: Tally) -> None:
    """Classify while another process has long replies generated, one after the other."""
    seconds = bench.plan.seconds
    speaking = {"seconds": seconds + 2 * MARGIN_SECONDS, "prompts": prompts, "warmup": 1}
    try:
        with (
            bench.fleet.only(each.server) as server,
            bench.load.hold(each, server, "classify", seconds=seconds) as run,
            bench.load.hold(SPEAKER, server, "prompt", **speaking) as speaker,
        ):
            speaker.release()
            time.sleep(MARGIN_SECONDS)
            tally.add(run.go())
            tokens.add(part(speaker.result(), "pieces"))
    except LoadError as error:
        tally.add_failure(str(error))


def _compare(rows: list[dict[str, Any]]) -> None:
    """What is more than in process."""
    medians = {row["key"]: row["latency_us"]["p50"] for row in rows if row["count"]}
    for row in rows:
        own = medians.get(f"{row['key'].rpartition('/')[0]}/{ENGINE.key}")
        if own and row["count"] and not row["key"].endswith((ENGINE.key, WAKE_FLOOR.key)):
            row["added_us"] = row["latency_us"]["p50"] - own
            row["added_percent"] = 100 * row["added_us"] / own


def table(section: dict[str, Any]) -> str:
    parts = []
    for name, title in PARTS.items():
        if rows := [row for row in section["rows"] if row["part"] == name]:
            parts += [f"**{title}**", tables.latencies({"rows": rows})]
    return "\n\n".join(parts)


def plot(section: dict[str, Any]) -> plots.Figure:
    figure, axes = plots.subplots(2, 2, figsize=(13, 10))
    for each, keys in zip(axes.flat, PLOTTED, strict=True):
        rows = [row for row in section["rows"] if row["key"].startswith(keys) and row["count"]]
        plots.draw_tails(each, rows)
        if rows:
            title = PARTS[rows[0]["part"]]
            each.set_title(f"{title}, {rows[0]['label'].partition(':')[0]}" if ":" in rows[0]["label"] else title)
            each.legend(fontsize=7, loc="lower left")
    return figure
