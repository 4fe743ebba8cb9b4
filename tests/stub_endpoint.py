"""An OpenAI-compatible endpoint that does whatever a test wants: `answers` has a function for each model's name."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DONE = b"data: [DONE]\n\n"


def data(said) -> bytes:
    """One event of a stream."""
    return b"data: %s\n\n" % (said if isinstance(said, bytes) else json.dumps(said).encode())


def event(text="", reason=None, **delta) -> bytes:
    """One event of a streamed chat completion."""
    choice = {"index": 0, "delta": {"content": text, **delta}, "finish_reason": reason}
    return data({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})


END = event(reason="stop") + DONE


def reply(*parts, status=200, kind="text/event-stream", encoding=None):
    """Sends `parts`, and then closes the connection."""

    def answer(handler):
        body = b"".join(parts)
        handler.head(status, kind, **({"content-encoding": encoding} if encoding else {}))
        handler.wfile.write(gzip.compress(body) if encoding == "gzip" else body)

    return answer


def refuse(status, body=b"", **headers):
    """Refuses with a body, JSON unless it is bytes."""

    def answer(handler):
        said = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.head(status, "application/json", **headers, **{"content-length": str(len(said))})
        handler.wfile.write(said)

    return answer


def stalls(handler):
    """Says a little and then nothing, until the test is over."""
    handler.head()
    handler.say(event("To "))
    handler.server.done.wait()


class StallsOnceTold:
    """Says a little, a little more once `go_on` is set, and then nothing."""

    def __init__(self):
        self.go_on = threading.Event()

    def __call__(self, handler):
        handler.head()
        handler.say(event("To "))
        self.go_on.wait()
        handler.say(event("be "))
        handler.server.done.wait()


def endless(handler):
    """Talks until it is left."""
    handler.head()
    handler.say(event("To "))
    try:
        while not handler.server.done.wait(0.005):
            handler.say(event("be "))
    except OSError:
        handler.server.gone.set()


def breaks_off(handler):
    """Says a little, and hangs up in the midst of a chunked body."""
    handler.head(transfer_encoding="chunked")
    handler.chunk(event("To "))


def keeps_connection(handler):
    """A reply after which the connection is good for the next one."""
    handler.head(transfer_encoding="chunked", connection="keep-alive")
    for part in (event("To "), event("be"), END, b""):
        handler.chunk(part)
    handler.close_connection = False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.client_address[1], self.path, headers, body))
        self.server.asked.set()
        self.close_connection = True
        self.server.answers[body["model"]](self)

    def head(self, status=200, kind="text/event-stream", **headers):
        self.send_response(status)
        self.send_header("content-type", kind)
        headers = {"connection": "close"} | headers  # else the next prompt is sent on a connection that ends
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def say(self, part):
        self.wfile.write(part)
        self.wfile.flush()

    def chunk(self, part):
        self.say(b"%x\r\n%s\r\n" % (len(part), part))

    def log_message(self, *_):
        pass


class Endpoint(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.requests = {}, []
        self.asked, self.done, self.gone = threading.Event(), threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def close(self):
        self.done.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        pass  # the client has left
