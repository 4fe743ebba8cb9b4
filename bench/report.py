"""What people read of a result: Markdown, and a picture for each section."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib import pyplot

from .checks import checks
from .machine import busy
from .sections import SECTIONS
from .tables import grid, number


def markdown(results: dict[str, Any]) -> str:
    """Everything: RESULTS.md."""
    parts = ["# Results", machine(results), _failures(results), "## What it must show", claims(results)]
    for name, section in results["sections"].items():
        parts += [f"## {SECTIONS[name].TITLE}", SECTIONS[name].QUESTION, SECTIONS[name].table(section)]
    return "\n\n".join(part for part in parts if part) + "\n"


def figures(results: dict[str, Any], folder: str) -> str:
    """Every picture, with the question that it answers and how to measure it again."""
    parts = []
    for name in results["sections"]:
        section = SECTIONS[name]
        parts += [
            f"### {section.TITLE}",
            f"**{section.QUESTION}** {section.HOW} Alone: `.venv/bin/python -m bench.run --only {name}`.",
            f"![{section.TITLE}]({folder}/{name}.png)",
        ]
    return "\n\n".join(parts)


def draw(results: dict[str, Any], directory: Path) -> Iterator[Path]:
    """Write the pictures."""
    head = results["header"]
    where = f"{head['cpu']}, {head['cores']} cores; {head['commit']}, {head['date'][:10]}, {head['form']}"
    for name, section in results["sections"].items():
        figure = SECTIONS[name].plot(section)
        figure.suptitle(SECTIONS[name].TITLE)
        figure.get_layout_engine().set(rect=(0, 0, 0.98, 1))  # room for a line on the right
        figure.text(0.995, 0.5, where, ha="right", va="center", fontsize=6, color="gray", rotation="vertical")
        file = directory / f"{name}.png"
        figure.savefig(file, dpi=110)
        pyplot.close(figure)
        yield file


def machine(results: dict[str, Any]) -> str:
    head, plan = results["header"], results["header"]["plan"]
    versions = ", ".join(f"{name} {number}" for name, number in head["versions"].items())
    virtual = " (virtual machine)" if head["hypervisor"] else ""
    changed = " with changes" if head["dirty"] else ""
    prompts = f"; prompts: {head['generator']}" if "generator" in head else ""
    lines = [
        f"{head['cpu']}, {head['cores']} cores{virtual}, {head['memory_gib']:g} GiB; Linux {head['kernel']},",
        f"governor {head['governor']}, idle driver {head['idle_driver']}, clock {head['clock']}.",
        f"Pinning: {head['pinning']}. Before the start {head['idle_before_percent']:g}% idle, load average",
        f"{head['load_average'][0]:.2f}; {head.get('steal_percent', 0):g}% stolen by the host meanwhile.",
        f"Model: {head['model']}, one thread{prompts}. Python {head['python']}, {versions},",
        f"Go {head['go'].get('go', '?')}, grpc-go {head['go'].get('grpc', '?')}. Commit {head['commit']}{changed},",
        f"{head['date'][:10]}, the {head['form']} form: {plan['rounds']} rounds, a turn {plan['seconds']:g} s after",
        f"a warm-up of {plan['warm_up']} calls that do not count; seed {head['seed']}. Every answer was checked.",
    ]
    return "\n".join(lines)


def claims(results: dict[str, Any]) -> str:
    rows = (
        [each["claim"], each["wanted"], number(each["measured"]), "yes" if each["met"] else "**no**"]
        for each in checks(results)
    )
    text = grid(["", "wanted", "measured", "met"], rows)
    if busy(results["header"]):
        text += "\n\n**Something else ran on this machine before the start: these numbers are not worth a comparison.**"
    return text


def _failures(results: dict[str, Any]) -> str:
    failed = [
        f"- {name}, {row['label']}: {row['errors']} failed; {row.get('first_error', '')}"
        for name, section in results["sections"].items()
        for row in section["rows"]
        if row["errors"]
    ]
    return "\n".join(["**Not everything went well:**", "", *failed]) if failed else ""
