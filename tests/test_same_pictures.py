"""The same file gives the same answer from Go, over shared memory, and over HTTP: real decoders, one real network."""

import http.client
import json
import re
import subprocess
import sys
from pathlib import Path

import hostile_pictures
import pictures_of_all_kinds
import pytest
from conftest import ROOT, ServerProcess

from shm_server.gateways import images
from shm_server.gateways.http import body

SEED = 8
SCORE = 0.01  # decoders of JPEG and WebP round differently


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    command = [sys.executable, str(ROOT / "tests" / "stub_transports.py"), "network", str(folder)]
    running = ServerProcess(command, folder / "shm", folder / "log")
    yield running
    running.process.kill()
    running.process.wait()


def over_http(server: ServerProcess, files: list[Path]) -> list[dict]:
    """Each file's answer, posted as it is, its kind unsaid."""
    port = int(re.search(r"listening on http://127\.0\.0\.1:(\d+)", server.log)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    answers = []
    for file in files:
        connection.request("POST", "/classify", file.read_bytes())
        answer = connection.getresponse()
        answers.append({"status": answer.status, **json.loads(answer.read())})
    return answers


def from_go(shm_client: Path, server: ServerProcess, files: list[Path]) -> tuple[list[dict], list[str]]:
    """Each file's answer, and the lines of standard error; all by one process."""
    line = [shm_client, "classify", "-json", "-timeout", "120s", "-socket", server.socket, "--", *files]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1), done.stderr
    answers = [json.loads(one) for one in done.stdout.splitlines()]
    assert [answer["file"] for answer in answers] == [str(file) for file in files], done.stderr
    return answers, done.stderr.splitlines()


def differences(theirs: list[dict], ours: list[dict]) -> list[str]:
    """What of the answers differs."""
    found = []
    for go, web in zip(theirs, ours, strict=True):
        name = Path(go["file"]).name
        if "error" in go or "error" in web:
            found.append(f"{name}: {go.get('error')} / {web.get('error')}")
            continue
        apart = max(abs(go["scores"][label] - score) for label, score in web["scores"].items())
        if go["label"] != web["label"] or apart > SCORE:
            found.append(f"{name}: {go['label']} / {web['label']}, scores {apart:.4f} apart")
    return found


def write(folder: Path, pictures) -> list[Path]:
    files = []
    for name, data in pictures:
        files.append(folder / name)
        files[-1].write_bytes(data)
    return files


def test_200_pictures_of_all_kinds_are_answered_alike(server, shm_client, tmp_path):
    print("seed", SEED)
    files = pictures_of_all_kinds.make(tmp_path, SEED)
    assert len(files) >= 200
    answers, complaints = from_go(shm_client, server, files)
    assert not complaints
    assert not differences(answers, over_http(server, files))
    assert len({answer["label"] for answer in answers}) >= 4, "the pictures show different things"


def test_odd_pictures_are_answered_alike(server, shm_client, tmp_path):
    files = write(tmp_path, hostile_pictures.odd_but_fair())
    answers, complaints = from_go(shm_client, server, files)
    assert not complaints
    assert not differences(answers, over_http(server, files))


def test_pictures_that_are_broken_or_too_large_are_a_line_each_and_the_next_is_classified(server, shm_client, tmp_path):
    good = write(tmp_path, [("good.png", hostile_pictures.saved(hostile_pictures.NOISE, "PNG"))])
    huge = write(tmp_path, hostile_pictures.huge())
    broken = write(tmp_path, hostile_pictures.broken())
    files = [*huge, *good, *broken, *good]
    answers, complaints = from_go(shm_client, server, files)
    assert [Path(one["file"]).name for one in answers if "error" not in one] == ["good.png", "good.png"]
    assert len(complaints) == len(huge) + len(broken)
    for file, complaint in zip([*huge, *broken], complaints, strict=True):
        assert complaint.startswith(f"shm-client: classify {file}: "), complaint
        assert "panic" not in complaint
    for file, answer in zip(files, over_http(server, files), strict=True):
        want = {200} if file in good else {413} if file in huge else {400}
        assert answer["status"] in want, (file.name, answer)


def test_both_sides_have_the_same_limits(shm_client):
    said = subprocess.run([shm_client, "help", "classify"], capture_output=True, text=True, check=True).stdout
    bytes_, pixels = re.search(r"at most (\d+) bytes, a picture (\d+) pixels", said).groups()
    assert int(bytes_) == body.MAX_BODY_BYTES
    assert int(pixels) == images.MAX_PIXELS
    assert images.NAMES in said
