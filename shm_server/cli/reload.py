"""`shm-server reload`: have a server that runs load its models again."""

import argparse

from shm_server.door.fleet import Outcome
from shm_server.session.doorbell import Refused
from shm_server.session.question import ask


def run(args: argparse.Namespace) -> int:
    """A line for each model; 1 when one did not load. ValueError with the server's words when it refuses."""
    try:
        with ask(args.socket, f"reload {args.name}".rstrip()) as asked:
            outcomes = [Outcome(**each) for each in asked.answer]
    except Refused as refusal:
        raise ValueError(str(refusal)) from refusal
    except OSError as error:
        error.filename = error.filename or args.socket
        raise
    if not outcomes:
        print("this server has no model")
    for each in outcomes:
        print(each)
    return 1 if any(each.error for each in outcomes) else 0
