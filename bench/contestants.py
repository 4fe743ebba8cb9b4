"""Who is compared: a transport, the way its client waits, and the server that it needs.

Every contestant is treated alike: nobody is pinned to a core, one client process, payloads and checks by the same
code, one thread for the model. A pinned client would see a single processor, and no longer spin: spinning there only
keeps the other side from running. Those that sleep are measured a second time with both sides pinned to one and the
same core, where waking the other side is cheapest: the best case of a socket.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Contestant:
    key: str
    label: str
    server: str  # a name of servers.py
    transport: str  # of bench/go
    spin: str = "0"  # how the shm client waits
    colour: str = "black"
    cpu: int | None = None  # where both sides are pinned to
    apart: tuple[int, int] | None = None  # or where the thread that calls is, and where the server

    def __str__(self) -> str:
        return self.label


SPINNING = Contestant("shm-spin", "shm, both sides spinning", "spinning", "shm", "forever", "#b2182b")
DEFAULT = Contestant("shm-default", "shm, by default (spins 100 us, then sleeps)", "default", "shm", "100us", "#ef6548")
PARKED = Contestant("shm-parked", "shm, parked (neither side spins)", "parked", "shm", "0", "#fdae6b")
UDS = Contestant("uds", "Unix socket, 4-byte length", "uds", "uds", colour="#2166ac")
GRPC = Contestant("grpc", "gRPC over a Unix socket", "grpc", "grpc", colour="#4d9221")
HTTP = Contestant("http", "HTTP + JSON (Flask, gunicorn)", "http", "http", colour="#762a83")
GATEWAY = Contestant(
    "http-gateway", "HTTP gateway (uvicorn, a client of the lanes)", "gateway", "http", colour="#c51b7d"
)

ONE_CORE = tuple(
    replace(each, key=f"{each.key}-one-core", label=f"{each.label}; both on one core", cpu=min(os.sched_getaffinity(0)))
    for each in (PARKED, UDS)
)

ALL = (SPINNING, DEFAULT, PARKED, UDS, GRPC, HTTP, GATEWAY)
# One process answers: the CPU time and the system calls of a server are those of one.
OF_ONE_PROCESS = tuple(each for each in ALL if each is not GATEWAY)
# Where several levels are gone through, parked is left out: under load it does what the default does.
SWEPT = (SPINNING, DEFAULT, UDS, GRPC, HTTP, GATEWAY)

# Two C processes, bench/floor: nothing but the bytes and the waiting.
FLOOR = Contestant("floor", "C to C, shared memory, spinning (the floor)", "", "shm", colour="black")
SOCKET_FLOOR = Contestant("floor-socket", "C to C, Unix socket", "", "socket", colour="gray")
FLOORS = (FLOOR, SOCKET_FLOOR)
WAKE_FLOOR = Contestant(
    "floor-wake", "C to C, a byte to one that sleeps at a socket (the floor)", "", "wake", colour="gray"
)

# bench/floor/rows.c: its way is the transport.
MEMCPY = Contestant("memcpy", "memcpy in one process", "", "memcpy", colour="black")
ROWS_FLOOR = Contestant("floor-rows", "C to C, shared memory, spinning", "", "touched", colour="gray")
PACKETS = Contestant("packets", "Unix socket, 4-byte length", "packets", "packets", colour="#2166ac")

# Not a transport: the model alone, as engine_limit.py calls it.
ENGINE = Contestant("engine", "the engine called in process (the limit)", "", "")

COLOURS = {each.key: each.colour for each in (*ALL, *FLOORS, WAKE_FLOOR, ENGINE, MEMCPY, ROWS_FLOOR, PACKETS)}
# Drawn dashed: what the others are compared with.
REFERENCES = tuple(each.key for each in (*FLOORS, WAKE_FLOOR, ENGINE, MEMCPY, ROWS_FLOOR))
