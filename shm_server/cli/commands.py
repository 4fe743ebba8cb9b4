"""The commands: from flags to an exit code, and one line for whatever is wrong."""

import logging
import sys

from shm_server.cli import options, reload, serve
from shm_server.door.listener import SocketInUse
from shm_server.generators import NoGenerator
from shm_server.models import ModelError
from shm_server.runtime import logs
from shm_server.runtime.process import Stop, words
from shm_server.training import train

log = logging.getLogger(__name__)


def run(argv: list[str] | None, stop: Stop) -> int:
    """0: done, or stopped as asked; 1: something cannot be had; 2: the flags make no sense."""
    parser = options.parser(train)
    args = parser.parse_args(argv)
    logs.configure(args.log_level, args.log_format)
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        if args.command == "serve":
            return serve.run(args, stop)
        stop.give_back()
        if args.command == "reload":
            return reload.run(args)
        return train.run(args)
    except (ModelError, SocketInUse, ValueError, OSError) as error:
        logs.say(f"shm-server {args.command}: {words(error)}")
        log.debug("raised here", exc_info=True)
        return 2 if isinstance(error, NoGenerator) else 1
    except Exception:
        log.exception("shm-server %s failed", args.command)
        return 1
    except KeyboardInterrupt:
        return 130
