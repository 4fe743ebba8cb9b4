"""What an exception says, as one line that can be sent to a peer or written to a log.

    describe(ValueError("\\ud800\\n"))       # 'ValueError: \\ud800'

The exception comes from a model, an endpoint or a library: its `__str__` may raise anything, return megabytes, control
characters, or text that UTF-8 cannot encode. None of that may end the loop that answers with it.
"""

import collections

# Functions that a log names of those that an exception came through.
INNERMOST = 5
# A few lines of a log; a reply or a refusal takes less and is cut once more.
LONGEST = 1000
# Looked at before the text is cut: room for what is dropped.
LOOKED_AT = 8 * LONGEST

# As the interpreter keeps them, whatever a metaclass or a property says.
_name_of = type.__dict__["__name__"].__get__
_traceback_of = BaseException.__dict__["__traceback__"].__get__


def describe(error: BaseException) -> str:
    """Type and message of `error`: one printable line of at most LONGEST characters. Never raises."""
    name, text = one_line(_name_of(type(error))), message(error)
    return one_line(f"{name}: {text}") if text else name


def message(error: BaseException) -> str:
    """The message of `error` without its type, else like `describe`."""
    try:
        # The slice of str itself: what `__str__` returns may be of a subclass with methods of its own.
        return one_line(str.__getitem__(str(error), slice(LOOKED_AT)))
    except BaseException as another:  # SystemExit too: whoever describes an exception does not want a second one
        return f"(no message: its __str__ raised {one_line(_name_of(type(another)))})"


def where(error: BaseException) -> str:
    """Where `error` was raised, for a log: the innermost functions, without the text of others that a traceback has."""
    frames: collections.deque[str] = collections.deque(maxlen=INNERMOST)
    at = _traceback_of(error)
    while at is not None:
        code = at.tb_frame.f_code
        frames.append(f"{code.co_name} ({code.co_filename}:{at.tb_lineno})")
        at = at.tb_next
    return one_line(f"Traceback: {' > '.join(frames)}")


def one_line(text: str) -> str:
    """`text` with runs of white space as one space and what is not printable, a lone surrogate too, escaped; cut."""
    line = " ".join(text[:LOOKED_AT].split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line[:LONGEST])
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
