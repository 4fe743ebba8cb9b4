"""What an exception of somebody else says: one printable line, whatever it does."""

import pytest

from shm_server.runtime.describe import INNERMOST, LONGEST, describe, message, one_line, where


class Raises(Exception):
    def __init__(self, raised: BaseException) -> None:
        self.raised = raised

    def __str__(self) -> str:
        raise self.raised


class Returns(Exception):
    def __init__(self, returned: object) -> None:
        self.returned = returned

    def __str__(self) -> str:
        return self.returned


class Text(str):
    """A text whose every method is somebody else's."""

    def __getattribute__(self, name: str) -> object:
        raise SystemExit(name)

    def __getitem__(self, key: object) -> str:
        raise SystemExit(key)

    def __str__(self) -> str:
        raise SystemExit


class Recursive(Exception):
    def __str__(self) -> str:
        return str(self)


class Nameless(type):
    __name__ = property(lambda cls: 1 / 0)


CASES = {
    "a message": (ValueError("no such class"), "ValueError: no such class"),
    "no message": (KeyboardInterrupt(), "KeyboardInterrupt"),
    "lines": (ValueError(" one\n\ttwo\r\n\u2028three\x85 "), "ValueError: one two three"),
    "a lone surrogate": (ValueError("\ud800"), r"ValueError: \ud800"),
    "control characters": (ValueError("\x1b[31m\0"), r"ValueError: \x1b[31m\x00"),
    "text that runs backwards": (ValueError("\u202egnp.exe"), r"ValueError: \u202egnp.exe"),
    "other languages": (ValueError("größer als 2 € 𝄞"), "ValueError: größer als 2 € 𝄞"),
    "a group": (BaseExceptionGroup("two", [SystemExit(), ValueError()]), "BaseExceptionGroup: two (2 sub-exceptions)"),
    "a __str__ that raises": (Raises(ValueError()), "Raises: (no message: its __str__ raised ValueError)"),
    "a __str__ that exits": (Raises(SystemExit()), "Raises: (no message: its __str__ raised SystemExit)"),
    "a __str__ without end": (Recursive(), "Recursive: (no message: its __str__ raised RecursionError)"),
    "a __str__ that returns a number": (Returns(7), "Returns: (no message: its __str__ raised TypeError)"),
    "a __str__ of a subclass of str": (Returns(Text("text")), "Returns: text"),
    "a name of two lines": (type("Two\nLines\x1b", (Exception,), {})("text"), r"Two Lines\x1b: text"),
    "an empty name": (type("", (Exception,), {})("text"), ": text"),
    "a name of the class's own": (Nameless("Real", (Exception,), {})("text"), "Real: text"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_exception_is_one_printable_line(case):
    error, line = CASES[case]
    assert describe(error) == line
    assert describe(error).isprintable()


@pytest.mark.parametrize("text", ["x" * 10_000_000, "\ud800" * 10_000_000, "\n" * 10_000_000, " x" * 10_000_000])
def test_megabytes_are_cut(text):
    for line in (describe(ValueError(text)), describe(type("Long" * 1000, (Exception,), {})(text))):
        assert len(line) <= LONGEST
        assert line.encode()
    assert len(one_line(text)) <= LONGEST


def test_a_message_comes_without_its_type():
    assert message(ValueError("one\ntwo")) == "one two"
    assert message(ValueError()) == ""
    assert message(Raises(SystemExit())) == "(no message: its __str__ raised SystemExit)"


def test_where_it_was_raised_is_told_by_functions_and_lines():
    namespace = {}
    exec(compile("def inner():\n\n    raise ValueError\ndef outer():\n    inner()", "a\nfile.py", "exec"), namespace)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        namespace["outer"]()
    assert where(caught.value).endswith(" > outer (a file.py:5) > inner (a file.py:3)")
    assert where(ValueError()) == "Traceback:"
    with pytest.raises(RecursionError) as caught:
        str(Recursive())
    assert where(caught.value).count("__str__") == INNERMOST
