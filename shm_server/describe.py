"""What an exception says, as one line that can be sent to a peer or written to a log.

    describe(ValueError("\\ud800\\n"))       # 'ValueError: \\ud800'

The exception comes from a model, an endpoint or a library: its `__str__` may raise anything, return megabytes, control
characters, or text that UTF-8 cannot encode. None of that may end the loop that answers with it.
"""

# A few lines of a log; a reply or a refusal takes less and is cut once more.
LONGEST = 1000
# Looked at before the text is cut: room for what is dropped.
LOOKED_AT = 8 * LONGEST

# `__name__` as the interpreter keeps it, whatever a metaclass says.
_name_of = type.__dict__["__name__"].__get__


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


def one_line(text: str) -> str:
    """`text` with runs of white space as one space and what is not printable, a lone surrogate too, escaped; cut."""
    line = " ".join(text[:LOOKED_AT].split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line[:LONGEST])
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
