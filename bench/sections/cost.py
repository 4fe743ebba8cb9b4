"""What a call costs both sides besides time, and what it costs to be connected and do nothing."""

from __future__ import annotations

import time
from typing import Any

from .. import plots, syscalls, tables
from ..bench import Bench
from ..contestants import OF_ONE_PROCESS, Contestant
from ..rounds import interleaved
from ..tally import Tally

TITLE = "CPU time and system calls of both sides"
QUESTION = "What does spinning cost, and does an idle connection cost anything?"
HOW = (
    "CPU clocks of both processes while one caller echoes call after call, at 500 calls a second, and while nobody "
    "calls; system calls in runs of their own."
)

# A rate that is easy for everybody.
PACED_RATE = 500.0
PACED_CALLERS = 16
# Until a client that was let go has begun to do nothing.
SETTLE_SECONDS = 0.1


def measure(bench: Bench) -> dict[str, Any]:
    plan, tool = bench.plan, syscalls.tool()
    busy = {each: Tally(each.key, each.label, op="echo") for each in OF_ONE_PROCESS}
    paced = {each: Tally(each.key, each.label, op="echo", rate=PACED_RATE) for each in OF_ONE_PROCESS}
    for each in interleaved(OF_ONE_PROCESS, plan.sweep_rounds, bench.seed, "cost", bench.progress):
        bench.call(busy[each], each, "echo", seconds=plan.seconds)
        bench.call(paced[each], each, "echo", seconds=2 * plan.seconds, rate=PACED_RATE, callers=PACED_CALLERS)
    rows = []
    for each in interleaved(OF_ONE_PROCESS, 1, bench.seed, "idle, and system calls", bench.progress):
        row = {**busy[each].row(), "paced": paced[each].row(), "idle": idle(bench, each)}
        row["errors"] += row["paced"]["errors"]
        if tool:
            row["syscalls"] = {**calling(bench, each, tool), **connected(bench, each, tool)}
        rows.append(row)
    order = [each.key for each in OF_ONE_PROCESS]
    return {"rows": sorted(rows, key=lambda row: order.index(row["key"])), "syscalls_by": tool}


def idle(bench: Bench, contestant: Contestant) -> dict[str, float]:
    """Percent of a core that either side uses while it is connected and nobody calls."""
    with bench.fleet.only(contestant.server) as server:
        run = bench.load.run(contestant, server, "idle", seconds=bench.plan.idle_seconds)
    return {
        "client_percent": 100 * (run["client"]["user_s"] + run["client"]["sys_s"]) / run["wall_s"],
        "server_percent": 100 * run["server_cpu_s"] / run["wall_s"],
    }


def calling(bench: Bench, contestant: Contestant, tool: str) -> dict[str, float]:
    """System calls of either side, for each call."""
    with (
        bench.fleet.only(contestant.server) as server,
        bench.load.hold(contestant, server, "echo", observe=False, seconds=bench.plan.syscall_seconds) as run,
    ):
        with syscalls.counted(tool, {"client": run.pid, "server": server.serving}, bench.directory) as counts:
            run.release()
            run.wait_until_measured()
        count = run.result()["count"]
    return {f"{side}_per_call": counts[side] / count for side in ("client", "server")}


def connected(bench: Bench, contestant: Contestant, tool: str) -> dict[str, float]:
    """System calls of either side, for each second of doing nothing."""
    seconds = bench.plan.idle_seconds
    lasting = seconds + 2 * SETTLE_SECONDS + syscalls.ATTACH_SECONDS
    with (
        bench.fleet.only(contestant.server) as server,
        bench.load.hold(contestant, server, "idle", observe=False, seconds=lasting) as run,
    ):
        run.release()
        time.sleep(SETTLE_SECONDS)
        with syscalls.counted(tool, {"client": run.pid, "server": server.serving}, bench.directory) as counts:
            time.sleep(seconds)
        run.result()
    return {f"{side}_per_idle_second": counts[side] / seconds for side in ("client", "server")}


def table(section: dict[str, Any]) -> str:
    rows = []
    for row in section["rows"]:
        counts, idle, paced = row.get("syscalls", {}), row["idle"], row["paced"]
        rows.append([
            row["label"],
            tables.pair(row.get("client_cpu_us"), row.get("server_cpu_us")),
            tables.pair(paced.get("client_cpu_us"), paced.get("server_cpu_us")),
            tables.pair(counts.get("client_per_call"), counts.get("server_per_call")),
            tables.pair(idle["client_percent"], idle["server_percent"]),
            tables.pair(counts.get("client_per_idle_second"), counts.get("server_per_idle_second")),
        ])  # fmt: skip
    head = ["client / server", "CPU us a call", f"CPU us a call at {PACED_RATE:g}/s", "system calls a call",
            "CPU % idle", "system calls a second idle"]  # fmt: skip
    by = section["syscalls_by"] or "nobody: no perf, no strace"
    return f"{tables.grid(head, rows)}\n\nSystem calls were counted by {by}."


def plot(section: dict[str, Any]) -> plots.Figure:
    """Bars: CPU microseconds of a call on either side, busy and at an easy rate."""
    rows = [row for row in section["rows"] if row["count"] and row["paced"]["count"]]
    figure, ((busy, easy),) = plots.subplots(1, 2, figsize=(12, 5), sharey=True)
    for axes, title, runs in (
        (busy, "one caller, call after call", rows),
        (easy, f"{PACED_RATE:g} calls a second", [row["paced"] for row in rows]),
    ):
        for side, offset, colour in (("client", -0.2, "#4393c3"), ("server", 0.2, "#f4a582")):
            values = [run[f"{side}_cpu_us"] for run in runs]
            places = [place + offset for place in range(len(runs))]
            axes.barh(places, values, height=0.38, color=colour, label=side)
            for place, value in zip(places, values, strict=True):
                axes.text(value, place, f" {tables.number(value)}", va="center", fontsize=8)
        axes.set(title=title, xlabel="CPU microseconds a call", xscale="log")
        axes.margins(x=0.15)
        plots.tidy(axes)
        axes.set_yticks(range(len(rows)), [row["label"] for row in rows], fontsize=8)
        axes.grid(axis="y", visible=False)
    busy.invert_yaxis()
    plots.legend_below(figure, busy, 2)
    return figure
