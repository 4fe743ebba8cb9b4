"""A result made by hand, with every section and one contestant that failed."""

from typing import Any

import numpy as np

from bench.contestants import ALL, FLOORS, PARKED, SPINNING, UDS
from bench.histogram import Histogram
from bench.tally import Tally


def run(us: float, **more: Any) -> dict[str, Any]:
    """What `load` prints after 1000 calls that took about so long."""
    samples = np.random.default_rng(1).lognormal(np.log(us * 1000), 0.2, 1000).astype(np.int64)
    return {
        "histogram": Histogram.of(samples).encode(),
        "count": 1000,
        "errors": 0,
        "wall_s": float(samples.sum() / 1e9),
        "client": {"user_s": 0.002, "sys_s": 0.001},
        "server_cpu_s": 0.004,
        "stats": {"parks": 3},
        **more,
    }


def row(key: str, label: str, us: float, extra: dict[str, Any] | None = None, **head: Any) -> dict[str, Any]:
    tally = Tally(key, label, **head)
    tally.add(run(us, **(extra or {})))
    return tally.row()


def failed(key: str, label: str, **head: Any) -> dict[str, Any]:
    tally = Tally(key, label, **head)
    tally.add_failure("connection refused")
    return tally.row()


def results() -> dict[str, Any]:
    latency = {"shm-spin": 1.5, "shm-default": 1.7, "shm-parked": 9.0, "uds": 12.0, "grpc": 150.0}
    everybody = [row(each.key, each.label, latency[each.key], op="echo") for each in ALL if each.key in latency]
    http = failed("http", "HTTP + JSON", op="echo")
    floors = [row(each.key, each.label, 1.2, op="echo") for each in FLOORS]
    engine = row("engine", "the engine", 30, op="classify")
    classified = [{**row("shm-spin", "shm", 31, op="classify"), "added_us": 1.0, "added_percent": 3.3}]
    swept = [row(each.key, each.label, 5 * n, op="echo", callers=n) for n in (1, 4) for each in (SPINNING, UDS)]
    processes = [row(SPINNING.key, SPINNING.label, 50, op="classify", processes=n) for n in (1, 2)]
    idle = {"client_percent": 0.0, "server_percent": 100.0}
    counts = {f"{side}_per_{unit}": 0.5 for side in ("client", "server") for unit in ("call", "idle_second")}
    cost = {**everybody[0], "paced": row("shm-spin", "shm", 60, rate=500.0), "idle": idle, "syscalls": counts}
    open_loop = {"batches": {"1": 500, "4": 500}, "lateness": run(2)["histogram"], "in_time": 990, "lasting_s": 1.0}
    offered = row("shm-spin", "shm", 80, open_loop, op="classify", load=0.5, rate=1000.0)
    alone = {**row("engine", "the engine, batches of 32", 300, batch=32), "images_per_s": 100_000.0}
    fed = row("shm-spin", "shm, 64 goroutines", 10, {"batches": {"32": 1000}}, op="classify")
    fed |= {"of_limit": 0.95, "of_largest": 0.93}
    prompts = [
        {**row(f"first/instant/{each.key}", f"at once: {each.label}", us, part="first"), "added_us": us - 4}
        for each, us in ((SPINNING, 7), (PARKED, 130))
    ]
    prompts += [
        row(f"{name}/{SPINNING.key}", SPINNING.label, 30, part=part)
        for name, part in (
            ("made/paced", "made"),
            ("echo", "echo"),
            ("classify", "classify"),
            ("generating", "classify"),
        )
    ]
    sized = [
        {**row(f"{what}/{size}/{key}", key, us, what=what, bytes=size), **more}
        for what, size, key, us, more in (
            ("pinned", 32, "floor-rows", 0.1, {}),
            ("pinned", 32, "shm-spin", 1.4, {}),
            ("untouched", 64, "shm-spin", 1.5, {}),
            ("untouched", 1 << 20, "shm-spin", 1.5, {}),
            ("touched", 64, "memcpy", 0.1, {"of_memcpy": 1.0, "of_floor": 0.9}),
            ("touched", 64, "shm-spin", 2, {"of_memcpy": 20.0, "of_floor": 4.0}),
            ("touched", 1 << 20, "memcpy", 50, {"of_memcpy": 1.0, "of_floor": 0.9}),
            ("touched", 1 << 20, "shm-spin", 60, {"of_memcpy": 1.2, "of_floor": 1.1}),
        )
    ]
    sized.append(failed(f"touched/{1 << 20}/grpc", "gRPC", what="touched", bytes=1 << 20))
    replicas = [
        {**row(f"{n}/shm-default", f"{n} replicas", 1000 / n, replicas=n), "of_one": of_one}
        for n, of_one in ((1, 1.0), (2, 1.5))
    ]
    reloaded = [row(f"{what}/shm-default", what, us) for what, us in (("quiet", 30), ("changing", 90))]
    reloaded[1]["s_each"] = 2.0
    changes = [{"what": "reload", "at_s": 0.0, "took_s": 1.0}, {"what": "take_over", "at_s": 2.0, "took_s": 2.0}]
    prompts[0]["added_percent"] = prompts[1]["added_percent"] = 75.0
    return {
        "header": {
            "date": "2026-11-24T00:00:00+00:00", "commit": "abc1234", "dirty": False, "cpu": "A CPU", "cores": 2,
            "hypervisor": True, "memory_gib": 24.0, "kernel": "6.18", "governor": "none",
            "idle_driver": "none", "clock": "tsc",
            "pinning": "none", "python": "3.11", "versions": {"numpy": "2.4"}, "load_average": [0.1, 0.1, 0.1],
            "idle_before_percent": 99.0, "model": "cifar10-cnn on TensorFlow", "go": {"go": "1.26", "grpc": "v1.80.0"},
            "form": "quick", "plan": {"rounds": 2, "seconds": 0.1, "warm_up": 100}, "seed": 1,
        },
        "sections": {
            "echo": {"rows": [*floors, *everybody, http]},
            "classify": {"rows": [engine, *classified]},
            "concurrency": {"rows": swept},
            "processes": {"rows": processes},
            "cost": {"rows": [cost], "syscalls_by": "perf"},
            "batching": {"rows": [offered], "capacity": 2000.0},
            "limit": {"rows": [alone, fed]},
            "prompt": {"rows": prompts},
            "size": {"rows": sized},
            "replicas": {"rows": replicas},
            "reload": {"rows": reloaded, "changes": changes},
        },
    }  # fmt: skip
