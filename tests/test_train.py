"""Training, for real but small: a few synthetic pictures and the real network."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

tensorflow = pytest.importorskip("tensorflow", reason="needs the extra [train]")
pytest.importorskip("matplotlib", reason="needs the extra [train]")
Image = pytest.importorskip("PIL.Image", reason="needs the extra [train]")

# Engines ask for one thread, and TensorFlow has one number of threads a process.
tensorflow.config.threading.set_intra_op_parallelism_threads(1)
tensorflow.config.threading.set_inter_op_parallelism_threads(1)

from shm_server.models import load_classifier, pictures  # noqa: E402
from shm_server.training import fit  # noqa: E402
from shm_server.training import train as training  # noqa: E402

ROOT = Path(__file__).parent.parent
COLOURS = ("blue", "green", "red")  # in alphabetical order, as classes are
EACH = 40


def painted(count: int, colour: str, rng: np.random.Generator) -> np.ndarray:
    """Noisy pictures of one colour, uint8 (count, 32, 32, 3)."""
    pixels = rng.integers(0, 80, (count, 32, 32, 3), dtype=np.uint8)
    pixels[..., ["red", "green", "blue"].index(colour)] += 150
    return pixels


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder train/<colour>/<number>.png."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(5)
    for colour in COLOURS:
        (folder / "train" / colour).mkdir(parents=True)
        for number, pixels in enumerate(painted(EACH, colour, rng)):
            Image.fromarray(pixels).save(folder / "train" / colour / f"{number:04}.png")
    return folder


def run(*arguments: object) -> int:
    """`shm-server train` with these arguments."""
    parser = argparse.ArgumentParser()
    training.add_arguments(parser)
    return training.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """A model trained on the colours."""
    output = tmp_path_factory.mktemp("trained") / "colours.keras"
    assert run("--data", data, "--output", output, "--epochs", 4, "--held-out", 0.25, "--licence", "CC0-1.0") == 0
    return output


def test_a_trained_model_is_served_with_its_class_names_and_its_card_leaves_nothing_open(trained, caplog):
    classifier = load_classifier("tensorflow", trained)
    assert not caplog.messages
    assert classifier.class_names == COLOURS
    rng = np.random.default_rng(6)
    for label, colour in enumerate(COLOURS):
        pixels = np.ascontiguousarray(painted(8, colour, rng).transpose(0, 3, 1, 2))
        assert (classifier.scores(pixels).argmax(axis=1) == label).all()


def test_the_card_tells_what_the_model_was_trained_on_and_how_good_it_is(trained):
    card = json.loads(trained.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["class_names"] == list(COLOURS)
    assert card["held_out"]["pictures"] == 30
    assert card["held_out"]["accuracy"] == 1
    assert card["held_out"]["per_class"] == dict.fromkeys(COLOURS, 1)
    assert card["training"]["pictures"] == 90
    assert card["training"]["epochs"] == 4
    assert card["parameters"] == 122_570 - 7 * 65
    assert card["licence"] == "CC0-1.0"
    assert card["versions"]["tensorflow"]


def test_the_model_is_small_and_has_a_plot(trained):
    with zipfile.ZipFile(trained) as archive:
        assert b"optimizer" not in archive.read("model.weights.h5")
    assert trained.stat().st_size < 600_000
    with Image.open(trained.with_suffix(".png")) as plot:
        assert plot.format == "PNG"
        assert plot.width > 800


def test_progress_is_a_line_an_epoch_where_there_is_no_terminal(data, tmp_path, capsys):
    assert run("--data", data, "--output", tmp_path / "m.keras", "--epochs", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    assert any(line.startswith("held-out accuracy ") and "on 12 pictures" in line for line in lines)


def test_held_out_pictures_are_never_trained_on(data, tmp_path, monkeypatch):
    trained_on: set[bytes] = set()
    measured: set[bytes] = set()
    augment, accuracies = pictures.augment, training.accuracies

    def recording_augment(pixels, rng):
        trained_on.update(picture.tobytes() for picture in pixels)
        return augment(pixels, rng)

    def recording_accuracies(predicted, held):
        measured.update(picture.tobytes() for picture in held.pixels)
        return accuracies(predicted, held)

    monkeypatch.setattr(fit, "augment", recording_augment)
    monkeypatch.setattr(training, "accuracies", recording_accuracies)
    training.train(data, tmp_path / "m.keras", epochs=2, held_out=0.25)
    everything = {picture.tobytes() for picture in pictures.read_pictures(data).pixels}
    assert len(everything) == 3 * EACH
    assert len(measured) == 30
    assert trained_on == everything - measured


def test_every_picture_comes_once_an_epoch_in_a_new_order(data, monkeypatch):
    monkeypatch.setattr(fit, "augment", lambda pixels, rng: pixels)
    everything = pictures.read_pictures(data)
    batches = fit.batches(everything, seed=1)
    orders = []
    for _ in range(2):
        pixels, labels = (np.concatenate(part) for part in zip(*(batches[i] for i in range(len(batches))), strict=True))
        seen = {picture.tobytes(): label for picture, label in zip(pixels, labels, strict=True)}
        expected = pictures.unit_range(everything.pixels)
        assert len(pixels) == 3 * EACH
        assert seen == {picture.tobytes(): label for picture, label in zip(expected, everything.labels, strict=True)}
        orders.append(list(seen))
        batches.on_epoch_end()
    assert orders[0] != orders[1]


def test_a_split_is_stratified_seeded_and_leaves_copies_of_held_out_pictures_out():
    rng = np.random.default_rng(8)
    labels = np.repeat([0, 1], [100, 50])
    pixels = rng.integers(0, 256, (150, 32, 32, 3), dtype=np.uint8)
    pixels[:50] = pixels[100:]  # every picture of the second class is also one of the first
    everything = pictures.Pictures(pixels, labels, ("one", "two"), "")
    kept, held = pictures.split(everything, 0.2, np.random.default_rng(1))
    assert np.bincount(held.labels).tolist() == [20, 10]
    secret = {picture.tobytes() for picture in held.pixels}
    assert not any(picture.tobytes() in secret for picture in kept.pixels)
    assert len(kept.labels) < 120
    again = pictures.split(everything, 0.2, np.random.default_rng(1))[1]
    assert (again.pixels == held.pixels).all()
    other = pictures.split(everything, 0.2, np.random.default_rng(2))[1]
    assert (other.pixels != held.pixels).any()


def test_augmentation_moves_and_mirrors_but_never_invents_colours():
    ramp = np.tile(np.arange(32, dtype=np.uint8), (64, 3, 32, 1)).transpose(0, 2, 3, 1)
    moved = pictures.augment(ramp, np.random.default_rng(9))
    assert moved.shape == ramp.shape
    assert moved.dtype == np.uint8
    middle = moved[:, 16, 10:20, 0].astype(int)
    steps = np.diff(middle, axis=1)
    assert set(np.unique(steps)) == {-1, 1}, "mirrored about half of the time"
    shifts = {int(row[0]) - 10 for row, step in zip(middle, steps, strict=True) if step[0] == 1}
    assert shifts == set(range(-3, 4))


def test_a_folder_a_zip_and_a_folder_with_a_zip_are_read_alike(data, tmp_path):
    archive = tmp_path / "colours.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in sorted(data.rglob("*.png"), reverse=True):  # the order in the zip does not matter
            packed.write(file, file.relative_to(data))
    first, *others = (pictures.read_pictures(place) for place in (data, archive, tmp_path))
    assert first.class_names == COLOURS
    assert np.bincount(first.labels).tolist() == [EACH] * 3
    for other in others:
        assert (other.pixels == first.pixels).all()
        assert (other.labels == first.labels).all()
        assert other.source == "pictures, 120 files of colours.zip"


def test_jpegs_are_told_in_the_source(tmp_path):
    for label in "ab":
        folder = tmp_path / "train" / label
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(folder / "1.jpg")
    assert "not exactly one on the original bytes" in pictures.read_pictures(tmp_path).source


class TestRefusals:
    """What can not be trained on is told in one line on stderr, with a non-zero exit code."""

    @pytest.fixture
    def copy(self, data, tmp_path) -> Path:
        return Path(shutil.copytree(data, tmp_path / "copy"))

    def refused(self, capsys, complaint: str, *arguments: object) -> None:
        assert run(*arguments) != 0
        error = capsys.readouterr().err
        assert error.startswith("shm-server train: ")
        assert error.count("\n") == 1
        assert complaint in error

    def test_a_missing_folder(self, capsys, tmp_path):
        self.refused(capsys, "nowhere: no such folder or zip file", "--data", tmp_path / "nowhere")

    def test_a_folder_without_pictures(self, capsys, tmp_path):
        self.refused(capsys, "must hold train/<class>/*.jpg", "--data", tmp_path)

    def test_a_file_that_is_no_zip(self, capsys, tmp_path):
        (tmp_path / "data.zip").write_bytes(b"PK no")
        self.refused(capsys, "data.zip: not a zip file", "--data", tmp_path / "data.zip")

    def test_a_zip_of_something_else(self, capsys, tmp_path):
        with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
            archive.writestr("readme.txt", "hello")
        self.refused(capsys, "no train/<class>/*.jpg in it", "--data", tmp_path)

    def test_one_class(self, capsys, copy):
        for colour in COLOURS[1:]:
            shutil.rmtree(copy / "train" / colour)
        self.refused(capsys, "1 class folders, at least 2 are needed", "--data", copy)

    def test_an_empty_class(self, capsys, copy):
        (copy / "train" / "yellow").mkdir()
        self.refused(capsys, "yellow: no .jpg or .png picture in it", "--data", copy)

    def test_an_unreadable_picture(self, capsys, copy):
        (copy / "train" / "red" / "0007.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
        self.refused(capsys, "0007.png: not a readable picture", "--data", copy)

    def test_a_picture_of_another_size(self, capsys, copy):
        Image.new("RGB", (64, 48)).save(copy / "train" / "red" / "big.png")
        self.refused(capsys, "big.png: 64x48 pixels, must be 32x32", "--data", copy)

    def test_too_few_pictures_to_hold_any_out(self, capsys, data):
        self.refused(capsys, "class blue: 40 pictures, too few", "--data", data, "--held-out", 0.01)

    def test_an_output_of_another_kind(self, capsys, data, tmp_path):
        self.refused(capsys, "must end in .keras", "--data", data, "--output", tmp_path / "model.h5")

    def test_an_output_in_a_missing_folder(self, capsys, data, tmp_path):
        self.refused(capsys, "no such folder", "--data", data, "--output", tmp_path / "nowhere" / "m.keras")

    def test_a_missing_package(self, capsys, data, tmp_path, monkeypatch):
        real = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name))
        arguments = "--data", data, "--output", tmp_path / "m.keras"
        self.refused(capsys, 'needs Matplotlib: pip install "shm-server[train]"', *arguments)

    def test_a_download_that_fails(self, capsys, tmp_path, monkeypatch):
        import keras

        def load_data():
            raise Exception("URL fetch failure on https://example.org: None -- Name or service not known")

        monkeypatch.setattr(keras.datasets.cifar10, "load_data", load_data)
        self.refused(capsys, "give --data DIR: URL fetch failure", "--output", tmp_path / "m.keras")

    @pytest.mark.parametrize("flags", ["--epochs 0", "--epochs x", "--held-out 1", "--seed -1", "--colour red"])
    def test_wrong_flags(self, capsys, flags):
        with pytest.raises(SystemExit) as leaving:
            run(*flags.split())
        assert leaving.value.code == 2
        assert "error: " in capsys.readouterr().err

    def test_from_the_command_line(self, tmp_path):
        command = [sys.executable, "-m", "shm_server.training.train", "--data", str(tmp_path / "nowhere")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert done.stderr == f"shm-server train: {tmp_path}/nowhere: no such folder or zip file\n"
