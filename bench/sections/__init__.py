"""The sections of a benchmark, in order: a figure each. Another one is a module here and a line below. It has

TITLE             of the figure
QUESTION, HOW     what it answers, and how it is measured
servers(plan)     of servers.py that it needs besides those that serve images; may be missing
measure(bench)    its part of results.json: {"rows": [tally.row(), ...], ...}
table(section)    Markdown of that part
plot(section)     a Figure of it
"""

from . import batching, classify, concurrency, cost, echo, limit, processes, prompt, reload, replicas, size

SECTIONS = {
    "echo": echo,
    "classify": classify,
    "concurrency": concurrency,
    "processes": processes,
    "cost": cost,
    "batching": batching,
    "limit": limit,
    "prompt": prompt,
    "size": size,
    "replicas": replicas,
    "reload": reload,
}
