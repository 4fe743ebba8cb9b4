"""A prompt's text, piece by piece as it is generated.

with client.stream("To be, or not to be", steps=64) as pieces:
    for piece in pieces:
        print(piece, end="", flush=True)
pieces.truncated                       # was the reply full before the model was at its end?
"""

from typing import NamedTuple

import numpy as np

from shm_server.client import errors
from shm_server.client.deadlines import deadline_ns, seconds
from shm_server.client.errors import ClientError, DeadlineExceeded, InvalidRequest
from shm_server.client.link import MOST_MOVES, Link, sent_on
from shm_server.client.session import Session, status_error
from shm_server.layout import STATUS_PYTHON_ERROR, CompletionFlag, Op, Status, SubmissionFlag
from shm_server.runtime.describe import one_line

DEFAULT_STEPS = 128
MOST_STEPS = (1 << 32) - 1

# Those of layout.md, "status", that a prompt may end with.
_KINDS = {
    status: getattr(errors, name)
    for status, name in STATUS_PYTHON_ERROR.items()
    if issubclass(getattr(errors, name), errors.PromptError)
}


class Prompt(NamedTuple):
    """A prompt and how to answer it, checked; `words` are the submission's behind the deadline."""

    text: bytes
    words: tuple[int, int, float, int, int]

    @classmethod
    def of(
        cls,
        text: str,
        *,
        steps: int = DEFAULT_STEPS,
        temperature: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> "Prompt":
        """InvalidRequest where a value makes no sense. None: what suits the model, and for `seed` a new one."""
        _whole("steps", steps, 1, MOST_STEPS)
        _whole("top_k", top_k or 0, 0, MOST_STEPS)
        _whole("seed", seed or 0, 0, (1 << 64) - 1)
        # Compared in doubles: what is beyond a float32 is refused, and so is NaN.
        if temperature is not None and not 0 <= temperature <= float(np.finfo(np.float32).max):
            raise InvalidRequest(f"a temperature of {temperature}, expected 0 or more")
        try:
            encoded = text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"the prompt is no text: {error.reason}") from None
        said = {
            SubmissionFlag.WITH_TEMPERATURE: temperature,
            SubmissionFlag.WITH_TOP_K: top_k,
            SubmissionFlag.WITH_SEED: seed,
        }
        flags = sum(flag for flag, value in said.items() if value is not None)
        return cls(encoded, (flags, steps, temperature or 0.0, top_k or 0, seed or 0))

    def write(self, session: Session, slot: int) -> None:
        rows = session.inputs[0]
        if len(self.text) > rows.shape[1]:
            raise InvalidRequest(f"a prompt of {len(self.text)} bytes, the slots of this client take {rows.shape[1]}")
        rows[slot, : len(self.text)] = np.frombuffer(self.text, np.uint8)

    def submit(self, session: Session, slot: int, deadline: int) -> bool:
        return session.lane.submit([slot], Op.RUN, len(self.text), deadline, *self.words)


class Reply:
    """What a prompt came to; the figures are set with the last piece."""

    truncated = False
    """The reply was full: the text ends, at a character's boundary, before the generator did."""
    queue_ns = 0
    """Until its turn came: a server generates for a few prompts at a time."""
    model_ns = 0
    """From there until the last token."""

    def take(self, session: Session, slot: int) -> tuple[str, bool]:
        """The text that there is news of, and whether it is the last. Raises the PromptError that ended it, once its
        text was taken.
        """
        news = session.lane.text(slot)
        if news is None:
            raise session.failure()
        text, last = news
        session.intact()
        try:
            piece = text.decode()
        except UnicodeDecodeError:
            raise session.violated("text", f"the reply of slot {slot} is no UTF-8") from None
        return piece, last

    def end(self, session: Session, slot: int) -> ClientError | None:
        """The figures, and the error that ended the prompt, if one did."""
        status, flags, _, batch, _, self.queue_ns, self.model_ns, message = session.lane.result(slot)
        self.truncated = bool(flags & CompletionFlag.TRUNCATED)
        if status == Status.OK:
            return None
        if status == Status.CANCELLED:
            return session.violated("status", "a prompt that nobody cancelled was cancelled")
        if kind := _KINDS.get(status):
            return kind(one_line(message.decode(errors="replace")) or kind.__doc__)
        return status_error(status, batch, message)


class Stream(Reply):
    """An iterator of pieces, whole characters each. Closing it, or leaving its block, cancels the rest. One thread uses
    it.

    Raises DeadlineExceeded, ServerGone, ModelError, one of the PromptErrors, or another ClientError; the pieces before
    stand.
    """

    def __init__(self, link: Link, prompt: Prompt, timeout: float | None) -> None:
        self._link, self._prompt, self._deadline = link, prompt, deadline_ns(timeout)
        self._session: Session | None = None
        self._slot, self._over, self._began, self._error = -1, False, False, None
        self._submit()

    def _submit(self) -> None:
        for _ in range(MOST_MOVES):
            session = self._link.session(seconds(self._deadline))
            slots = session.lane.claim(1, self._deadline)
            if type(slots) is not list:
                if error := session.not_sent(slots):
                    raise error
                continue
            try:
                self._prompt.write(session, slots[0])
                submitted = self._prompt.submit(session, slots[0], self._deadline)
            except BaseException:
                session.lane.release(slots[0])
                raise
            if submitted:
                self._session, self._slot = session, slots[0]
                return
            session.lane.release(slots[0])
        raise sent_on(session)

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> str:
        while not self._over:
            try:
                piece = self._next()
            except BaseException:
                self.close()
                raise
            if piece:
                self._began = True
                return piece
        self.close()
        if self._error:
            error, self._error = self._error, None
            raise error
        raise StopIteration

    def _next(self) -> str:
        session, slot = self._session, self._slot
        answer = session.lane.wait([slot], self._deadline)
        if answer:
            error = session.lost(answer)
            if error or self._began:
                raise error or session.failure()
            self.close()
            self._over = False
            self._submit()  # the model has moved, and said nothing
            return ""
        piece, last = self.take(session, slot)
        if last:
            self._over = True
            self._error = self.end(session, slot)
            if isinstance(self._error, DeadlineExceeded) and self._began:
                self._error.not_run = False
        return piece

    def close(self) -> None:
        """Cancel what has not come. Closing twice does nothing."""
        self._over = True
        session, self._session = self._session, None
        if session is not None:
            session.lane.abandon(self._slot)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_session", None) is not None:
            self.close()


def _whole(what: str, value: int, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise InvalidRequest(f"{what} of {value!r:.40}, expected a whole number from {least} to {most}")
