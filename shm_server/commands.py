"""The commands: from flags to an exit code, and one line for whatever is wrong."""

import logging
import sys

from . import logs, options, serve, train
from .generators import NoGenerator
from .listener import SocketInUse
from .models import ModelError
from .process import Stop, words

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
