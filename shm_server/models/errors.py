"""What goes wrong with models."""

import re

LONGEST = 300  # characters of somebody else's reason
# What stands before the line that matters: Keras' nested reasons, the innermost last; TensorFlow's node, in bold;
# OpenVINO's places in its own sources, and a summary. And what stands after it.
_BEFORE = re.compile(
    r"(?s).*Exception encountered(: | when calling [^\n]*\s+)|\x1b\[\d*m|\{\{[^}]*\}\} |"
    r"(Exception from|Check) [^\n]*:\d+:\n|FrontEnd API failed.*?\n-- "
)
_AFTER = (
    " Full object config: ",
    " If you trust the source of the artifact",
)  # the latter advises what we do not offer


class ModelError(Exception):
    """A model that can not be served.  Its text is one line: what is wrong and what to do."""


def reason(error: BaseException) -> str:
    """The line that matters of a framework's exception."""
    try:
        text = _BEFORE.sub("", str(error)).strip()
    except Exception:  # its text is the framework's, or of a layer of somebody's own
        text = ""
    line = (text or type(error).__name__).splitlines()[0]
    for end in _AFTER:
        line = line.partition(end)[0]
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line[:LONGEST])
    return line if len(line) < LONGEST else f"{line[: LONGEST - 3]}..."
