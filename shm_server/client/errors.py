"""What can go wrong between a call and its answer. The Go client has the same, as errors of the same names.

    ClientError
        ServerGone              it died, hung up, or there is none; calls in flight are lost
            ProtocolError       it broke the protocol, or does not speak ours
            Draining            it is stopping and takes no new work
            Moved               another process has the model, again and again
            Starting            (Refused too) the model's process is being started
        Refused                 it turned the connection away
            Incompatible        (ProtocolError too) it speaks another layout
            NoSuchModel         the text lists those that it has
        ForeignServer           (PermissionError too) it is another user's
        DeadlineExceeded        (TimeoutError too) the time-out passed, here or there
        ModelError              the model raised, or gave what it had not declared
        TensorError             (ValueError too) not as the signature has it: a name, an extent
            WrongDatatype, WrongShape
        WrongSignature          the model that has replaced ours takes or gives something else
        SlotReleased            the lease is over
        Closed                  the client was closed
        PromptError             the prompt failed; the text so far stands
            InvalidRequest, Unavailable, Unauthorized, RateLimited, TimedOut, Broken

`error.not_run` is true where the call was not run and will not be: it can be made again without being run twice.
"""

import copy


class ClientError(Exception):
    """The base of all of them."""

    not_run = False

    def __init__(self, message: str, *, not_run: bool | None = None) -> None:
        super().__init__(message)
        if not_run is not None:
            self.not_run = not_run

    def again(self) -> "ClientError":
        """The same for another caller: an exception that is raised twice mixes up two tracebacks."""
        return copy.copy(self).with_traceback(None)


class ServerGone(ClientError):
    """The server died, hung up or broke the protocol, or there is none now."""


class ProtocolError(ServerGone):
    """Server and client do not understand each other; `rule` is what was broken: "magic", "geometry", "turn", ..."""

    rule = ""

    @classmethod
    def of(cls, rule: str, detail: str) -> "ProtocolError":
        error = cls(f"shm-server broke the protocol: {rule}: {detail}")
        error.rule = rule
        return error


class Draining(ServerGone):
    """The server is stopping and takes no new work."""


class Moved(ServerGone):
    """Another process serves the model from now on. Calls that were not answered are made there, so who sees this has
    been sent on again and again."""

    not_run = True


class Refused(ClientError):
    """The server turned the connection away; `reason` is why, of layout.Reason."""

    not_run = True
    reason = 0


class Starting(Refused, ServerGone):
    """The model's process is being started: call again soon."""


class Incompatible(Refused, ProtocolError):
    """Server and client speak other layouts, or one needs a feature that the other lacks."""

    rule = "version"


class NoSuchModel(Refused):
    """The server has no model of that name and protocol; the text lists those that it has."""


class ForeignServer(ClientError, PermissionError):
    """The server runs as another user, who is not trusted; `user` is its id."""

    not_run = True
    user = -1


class DeadlineExceeded(ClientError, TimeoutError):
    """The time-out passed, here or at the server."""


class ModelError(ClientError):
    """The model failed, and said this. Other calls are not affected."""


class TensorError(ClientError, ValueError):
    """Not as the model's signature has it; the text says both. Nothing was sent."""

    not_run = True


class WrongDatatype(TensorError):
    """Elements of another type."""


class WrongShape(TensorError):
    """Another shape, or an extent beyond the bound."""


class WrongSignature(ClientError):
    """The model of that name takes or gives something else than when it was asked for; ask for it again."""

    not_run = True


class SlotReleased(ClientError):
    """The slot's lease is over: it was released, or its last call was given up in flight."""

    not_run = True


class Closed(ClientError):
    """The client was closed."""


class PromptError(ClientError):
    """A prompt failed; the text that came before stands."""


class InvalidRequest(PromptError):
    """Empty, no text, too long, or an option is out of range; the text says which."""

    not_run = True


class Unavailable(PromptError):
    """The endpoint behind the server's generator does not answer."""


class Unauthorized(PromptError):
    """The endpoint does not accept the server's key."""


class RateLimited(PromptError):
    """The endpoint refuses more requests for now."""


class TimedOut(PromptError):
    """The endpoint took too long."""


class Broken(PromptError):
    """The endpoint broke off."""
