"""Log lines: no thread waits for them, one kind does not drown the others, each is one line that a machine can read."""

import json
import os
import re
import subprocess
import sys

import pytest
from client import Client, connect
from conftest import ROOT, until

from shm_server.layout import Op, Status


def run(program: str, **how) -> subprocess.Popen:
    """A process that logs; `log` and `logs` are imported for it."""
    head = "import logging, os, sys\nfrom shm_server.runtime import logs\nlog = logging.getLogger('test')\n"
    return subprocess.Popen([sys.executable, "-c", head + program], cwd=ROOT, text=True, **how)


def lines_of(program: str, *, code: int = 0) -> list[str]:
    with run(program, stderr=subprocess.PIPE) as process:
        lines = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == code
    return lines


def full_pipe() -> tuple[int, int]:
    """A pipe that takes nothing more, until it is read."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    size = 1 << 16
    while size:
        try:
            os.write(theirs, b"x" * size)
        except BlockingIOError:
            size //= 2
    os.set_blocking(theirs, True)
    return ours, theirs


def answers(path) -> bool:
    try:
        connect(path).close()
    except OSError:
        return False
    return True


def test_nobody_who_logs_waits_for_a_pipe_that_nobody_reads_nor_does_the_exit():
    ours, theirs = full_pipe()
    program = "logs.configure('debug')\nfor i in range(3000): log.debug('line %d', i)\nprint('all logged', flush=True)"
    process = run(program, stdout=subprocess.PIPE, stderr=theirs)
    assert process.stdout.readline() == "all logged\n"
    assert process.wait(60) == 0
    process.stdout.close()
    os.close(ours)
    os.close(theirs)


def test_what_was_dropped_is_counted_and_said_once_lines_flow_again():
    ours, theirs = full_pipe()
    program = """
logs.configure('debug')
for i in range(3000): log.debug('line %d', i)
print('all logged', flush=True)
sys.stdin.readline()
"""
    process = run(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    assert process.stdout.readline() == "all logged\n"
    with open(ours, errors="replace") as pipe:
        written = 0
        for line in pipe:
            written += "DEBUG line" in line
            if found := re.search(r"WARNING (\d+) log lines were dropped: stderr took none", line):
                break
        assert 0 < written < 3000
        assert written + int(found[1]) == 3000
        process.communicate("\n", timeout=60)


@pytest.mark.parametrize("end", ["", "logs.flush(); os._exit(0)"])
def test_what_can_be_written_is_written_before_the_end(end):
    lines = lines_of(f"logs.configure('debug')\nfor i in range(900): log.debug('line %d', i)\n{end}")
    assert [line.rpartition(" ")[2] for line in lines] == [str(i) for i in range(900)]


def test_a_kind_comes_a_few_times_a_second_and_the_rest_is_counted():
    lines = lines_of("logs.configure()\nfor i in range(500): log.warning('refused: %d', i)\nlog.error('another kind')")
    assert any("another kind" in line for line in lines)
    said = [line for line in lines if re.search(r"WARNING refused: \d+$", line)]
    counts = [
        int(found[1]) for line in lines if (found := re.search(r"WARNING (\d+) more like it: refused: %d$", line))
    ]
    assert 5 <= len(said) < 500
    assert len(said) + sum(counts) == 500


def test_texts_that_are_no_templates_are_bounded_for_their_logger():
    lines = lines_of(
        "logs.configure()\nfor i in range(5000): log.warning(f'refused {i}')\nlogging.getLogger('other').error('b')"
    )
    assert lines[-1].endswith("ERROR b") or lines[-2].endswith("ERROR b")
    said = [line for line in lines if re.search(r"WARNING refused \d+$", line)]
    counts = [int(found[1]) for line in lines if (found := re.search(r"WARNING (\d+) more lines of test$", line))]
    assert 100 <= len(said) < 5000
    assert len(said) + sum(counts) == 5000


def test_a_line_has_a_date_and_stays_one_line_whatever_a_client_says():
    (line,) = lines_of(r"logs.configure(); log.info('client says %s', 'a\n2026-01-01 00:00:00 INFO b\r\x1b[2J\udcff')")
    text = r"client says a\n2026-01-01 00:00:00 INFO b\r\x1b[2J\udcff"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO (.*)", line)[1] == text


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_that_cannot_be_formatted_says_so_and_raises_nothing(form):
    (line,) = lines_of(
        f"logs.configure('info', '{form}')\n"
        "class Bad:\n    def __str__(self): raise ValueError\nlog.info('client says %s', Bad())"
    )
    assert "a line that cannot be formatted: 'client says %s'" in line


def test_json_has_an_object_a_line_with_the_traceback_in_it():
    (line,) = lines_of("""
logs.configure('info', 'json')
try: 1 / 0
except ZeroDivisionError: log.exception('it %s', 'failed')""")
    said = json.loads(line)
    assert (said["level"], said["logger"], said["message"]) == ("error", "test", "it failed")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", said["time"])
    assert said["exception"].endswith("ZeroDivisionError: division by zero")


def test_what_python_itself_would_write_is_a_log_line_too():
    lines = lines_of("""
import threading, warnings
logs.configure('info', 'json')
warnings.warn('look out')
thread = threading.Thread(target=lambda: 1 / 0, name='worker'); thread.start(); thread.join()
class Late:
    def __del__(self): raise OSError('too late')
Late()
""")
    warning, thread, late = map(json.loads, lines)
    assert "look out" in warning["message"]
    assert thread["message"] == "an exception ended the thread worker"
    assert "too late" in late["exception"]


def test_a_forked_child_logs_too():
    lines = lines_of("logs.configure()\nif not os.fork():\n    log.info('child'); os._exit(0)\nos.wait()")
    assert [line.rpartition(" ")[2] for line in lines] == ["child"]


def test_a_server_whose_stderr_nobody_reads_answers_and_stops(tmp_path):
    ours, theirs = full_pipe()
    stub = [sys.executable, str(ROOT / "tests" / "stub_server.py"), "raising", str(tmp_path / "sock")]
    process = subprocess.Popen(stub, stderr=theirs, cwd=ROOT)
    until(lambda: answers(tmp_path / "sock"))
    with Client(tmp_path / "sock") as client:
        client.slots[0] = 0
        for _ in range(300):  # a line each
            client.submit(0, Op.RUN)
            assert client.wait(60)["status"] == Status.MODEL_ERROR
        client.submit(0)
        assert client.wait(60)["status"] == Status.OK
    process.terminate()
    assert process.wait(60) == 0
    os.close(ours)
    os.close(theirs)


def test_a_model_that_always_fails_fills_no_disk(start):
    server = start(stub="raising")
    with Client(server.socket) as client:
        client.slots[0] = 0
        for _ in range(300):
            client.submit(0, Op.RUN)
            assert client.wait(60)["status"] == Status.MODEL_ERROR
    server.stop()
    said = server.log.count("ERROR a batch failed: ")
    counts = [int(count) for count in re.findall(r"ERROR (\d+) more like it: a batch failed", server.log)]
    assert 5 <= said < 300
    assert said + sum(counts) == 300
