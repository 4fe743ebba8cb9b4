"""The engines, on real models.  TensorFlow and OpenVINO run in this process; JAX, which needs Keras
on another backend, in one of its own."""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from shm_server import _core
from shm_server.models import ENGINES, Classifier, ModelError, load_classifier, warm_up
from shm_server.models.card import class_names
from shm_server.models.pictures import CIFAR10, Pictures, split

ROOT = Path(__file__).parent.parent
ASSETS = ROOT / "shm_server" / "assets"
DATA = ROOT.parent / "shared" / "data" / "cifar10-train.zip"
TOLERANCE = 1e-4  # between engines; float32 in another order of summation differs by about 1e-6

tensorflow = pytest.importorskip("tensorflow", reason="needs the extra [tensorflow]")
keras = pytest.importorskip("keras")
# Engines ask for one thread, and TensorFlow has one number of threads a process.
tensorflow.config.threading.set_intra_op_parallelism_threads(1)
tensorflow.config.threading.set_inter_op_parallelism_threads(1)

SIZES = (1, 3, 8, 64)


def pictures(count: int) -> np.ndarray:
    """Smooth random pictures, uint8 (count, 3, 32, 32): noise alone looks the same to every model."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
    return coarse.repeat(8, axis=2).repeat(8, axis=3)


def needs(framework: str) -> None:
    """Skips a test where the framework is missing, without importing it."""
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"needs the extra [{framework}]")


@pytest.fixture(scope="module", params=["tensorflow", "openvino"])
def classifier(request) -> Classifier:
    needs(request.param)
    return load_classifier(request.param)


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    """What Keras itself says of the 64 pictures."""
    model = keras.models.load_model(ASSETS / "cifar10-cnn.keras", compile=False)
    logits = model(pictures(64).transpose(0, 2, 3, 1) / np.float32(255), training=False)
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))


def save(path: Path, *layers, shape=(32, 32, 3)) -> Path:
    """A small model of those layers."""
    keras.utils.set_random_seed(3)
    keras.Sequential([keras.Input(shape), *layers]).save(path)
    return path


def python(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *arguments]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_the_bundled_model_names_the_ten_classes(classifier):
    assert classifier.class_names == CIFAR10
    assert classifier.name.startswith("cifar10-cnn on ")
    assert isinstance(classifier, Classifier)


@pytest.mark.parametrize("size", SIZES)
def test_scores_are_those_of_keras_whatever_the_batch_size(classifier, expected, size):
    scores = classifier.scores(pictures(64)[:size])
    assert scores.shape == (size, 10)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected[:size], atol=TOLERANCE)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert len(set(expected.argmax(axis=1))) > 3, "the pictures tell nothing apart"


@pytest.mark.parametrize("offset", [0, 3072, 1, 16, 3073])
def test_a_mapping_closes_as_soon_as_its_pixels_are_scored(classifier, expected, offset):
    memory = mmap.mmap(-1, 16 * 3072)
    view = np.frombuffer(memory, np.uint8, 8 * 3072, offset).reshape(8, 3, 32, 32)
    view[:] = pictures(64)[:8]
    scores = classifier.scores(view)
    view[:] = 0
    del view
    memory.close()  # BufferError if anything still refers to it
    np.testing.assert_allclose(scores, expected[:8], atol=TOLERANCE)


@pytest.mark.parametrize("offset", [0, 1])
def test_a_read_only_mapping_is_scored_and_closes(classifier, expected, offset):
    memory = mmap.mmap(-1, 16 * 3072)
    memory[offset : offset + 8 * 3072] = pictures(64)[:8].tobytes()
    view = np.frombuffer(memory, np.uint8, 8 * 3072, offset).reshape(8, 3, 32, 32)
    view.flags.writeable = False
    scores = classifier.scores(view)
    del view
    memory.close()
    np.testing.assert_allclose(scores, expected[:8], atol=TOLERANCE)


def test_tensorflow_reads_read_only_pixels_in_place_and_anew_each_time(expected, monkeypatch):
    from shm_server.models import tensorflow as engine

    classifier = load_classifier("tensorflow")
    monkeypatch.setattr(engine.tf, "constant", None)  # which would copy
    for first in (0, 8):
        memory = mmap.mmap(-1, 8 * 3072)  # the second is likely where the first was
        view = np.frombuffer(memoryview(memory).toreadonly(), np.uint8).reshape(8, 3, 32, 32)
        for order in (slice(None), slice(None, None, -1)):
            memory[:] = pictures(64)[first : first + 8][order].tobytes()
            np.testing.assert_allclose(classifier.scores(view), expected[first : first + 8][order], atol=TOLERANCE)
            np.testing.assert_allclose(classifier.scores(view[2:4]), classifier.scores(view)[2:4], atol=TOLERANCE)
        del view
        memory.close()


def test_pixels_that_a_client_takes_away_are_black(classifier):
    """The SIGBUS is on whatever thread of the framework reads them: see native/guard.h."""
    fd = os.memfd_create("segment")
    os.ftruncate(fd, 64 * 3072)
    mapping = _core.Mapping(fd, 64 * 3072)
    view = np.frombuffer(memoryview(mapping).toreadonly(), np.uint8).reshape(64, 3, 32, 32)
    os.ftruncate(fd, 4096)
    black = classifier.scores(np.zeros((64, 3, 32, 32), np.uint8))
    np.testing.assert_allclose(classifier.scores(view), black, atol=TOLERANCE)
    assert mapping.broken
    del view
    mapping.close()
    os.close(fd)


# In a process of its own: here threads of other tests may compute meanwhile.
ONE_THREAD = """
import sys, time
import numpy as np
from shm_server.models import load_classifier
classifier = load_classifier(sys.argv[1])
batch = np.random.default_rng(1).integers(0, 256, (64, 3, 32, 32), np.uint8)
classifier.scores(batch)
cpu, wall = time.process_time(), time.perf_counter()
for _ in range(20):
    classifier.scores(batch)
assert time.process_time() - cpu < 1.4 * (time.perf_counter() - wall), "more than one thread computes"
"""


@pytest.mark.parametrize("engine", ["tensorflow", "openvino"])
def test_one_thread_computes(engine):
    needs(engine)
    run = subprocess.run([sys.executable, "-c", ONE_THREAD, engine], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_openvino_sends_nothing_to_its_makers():
    needs("openvino")
    load_classifier("openvino")
    assert not [module for module in sys.modules if module.startswith("openvino_telemetry.")]


def test_an_overwritten_slot_is_read_anew_and_older_scores_stay(classifier, expected):
    slot = pictures(64)[:1].copy()
    first = classifier.scores(slot)
    slot[:] = pictures(64)[1]
    second = classifier.scores(slot)
    np.testing.assert_allclose(first, expected[:1], atol=TOLERANCE)
    np.testing.assert_allclose(second, expected[1:2], atol=TOLERANCE)


@pytest.mark.parametrize("offset", [0, 1, 16, 32])
def test_bytes_of_a_message_are_scored_wherever_they_lie(classifier, expected, offset):
    message = bytes(offset) + pictures(64)[:2].tobytes()  # read-only
    body = np.frombuffer(message, np.uint8, offset=offset).reshape(2, 3, 32, 32)
    np.testing.assert_allclose(classifier.scores(body), expected[:2], atol=TOLERANCE)


def test_warm_up_scores_every_batch_size():
    class Recorder:
        name, class_names = "recorder", ("one", "two")

        def __init__(self):
            self.sizes = []

        def scores(self, pixels):
            assert pixels.shape[1:] == (3, 32, 32)
            assert pixels.dtype == np.uint8
            self.sizes.append(len(pixels))
            return np.zeros((len(pixels), 2), np.float32)

    recorder = Recorder()
    warm_up(recorder, (1, 4))
    assert set(recorder.sizes) == {1, 4}


JAX = """
import mmap, sys, time
import numpy as np
from shm_server.models import ModelError, load_classifier
classifier = load_classifier("jax")
pixels = np.load(sys.argv[1])
assert len(classifier.class_names) == 10
scores = [classifier.scores(pixels[:size]) for size in (1, 3, 8, 64)]
memory = mmap.mmap(-1, 8 * 3072)
view = np.frombuffer(memory, np.uint8).reshape(8, 3, 32, 32)
for _ in range(3):
    view[:] = pixels[:8]
    mapped = classifier.scores(view)
    view[:] = 0
del view
memory.close()
np.savez(sys.argv[2], *scores, mapped)
cpu, wall = time.process_time(), time.perf_counter()
for _ in range(20):
    classifier.scores(pixels)
assert time.process_time() - cpu < 1.4 * (time.perf_counter() - wall), "more than one thread computes"
try:
    load_classifier("tensorflow")
except ModelError as error:
    print(error)
"""


def test_jax_agrees_and_lets_go_of_its_pixels_and_keeps_keras_to_itself(tmp_path, expected):
    needs("jax")
    np.save(tmp_path / "pixels.npy", pictures(64))
    done = python(JAX, str(tmp_path / "pixels.npy"), str(tmp_path / "scores.npz"), KERAS_BACKEND="tensorflow")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "scores.npz") as scores:
        for size, key in zip((*SIZES, 8), scores.files, strict=True):
            np.testing.assert_allclose(scores[key], expected[:size], atol=TOLERANCE)
    assert "Keras already runs on jax" in done.stdout
    assert len(done.stdout.splitlines()) == 1


LOADED = """
import sys
from shm_server.models import load_classifier
from shm_server.models.lean import UNUSED
print(load_classifier("tensorflow").name)
print({*UNUSED, "jax"} & set(sys.modules))
import matplotlib, pandas
"""


def test_loading_says_nothing_on_stderr_and_imports_nothing_that_serving_has_no_use_for():
    done = python(LOADED)
    assert (done.stdout, done.stderr) == ("cifar10-cnn on TensorFlow\nset()\n", "")


NO_FRAMEWORKS = """
import json, sys
from shm_server.models import ENGINES, ModelError, load_classifier
assert not {"tensorflow", "keras", "jax", "openvino"} & set(sys.modules), "a framework was imported unasked"
sys.modules.update(dict.fromkeys(["tensorflow", "keras", "jax", "openvino"]))  # None: not to be found
said = {}
for engine in ENGINES:
    try:
        load_classifier(engine)
    except ModelError as error:
        said[engine] = str(error)
print(json.dumps(said))
"""


def test_a_missing_framework_is_told_with_the_extra_that_installs_it():
    done = python(NO_FRAMEWORKS)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["tensorflow"] == 'engine "tensorflow" needs TensorFlow: pip install "shm-server[tensorflow]"'
    assert said["jax"] == 'engine "jax" needs JAX: pip install "shm-server[jax]"'
    assert set(said) == set(ENGINES)


def test_an_unknown_engine_is_told_which_there_are():
    with pytest.raises(ModelError, match='unknown engine "torch": there are tensorflow, jax, openvino'):
        load_classifier("torch")


def test_another_number_of_threads_is_refused_once_tensorflow_runs(tmp_path):
    load_classifier("tensorflow").scores(pictures(1))
    with pytest.raises(ModelError, match="another number of threads"):
        load_classifier("tensorflow", threads=2)


class TestForeignModels:
    """What is wrong with a file is told in one line that names it."""

    def refused(self, path: Path, *parts: str) -> None:
        with pytest.raises(ModelError) as refusal:
            load_classifier("tensorflow", path)
        message = str(refusal.value)
        assert "\n" not in message
        assert all(part in message for part in (path.name, *parts)), message

    def test_a_missing_file(self, tmp_path):
        self.refused(tmp_path / "missing.keras", "no such model file")

    def test_a_folder(self, tmp_path):
        self.refused(tmp_path, "no such model file")

    def test_a_file_of_garbage(self, tmp_path):
        path = tmp_path / "garbage.keras"
        path.write_bytes(b"not a zip file" * 99)
        self.refused(path, f"not a model that Keras {keras.__version__} can load")

    def test_a_truncated_model(self, tmp_path):
        path = tmp_path / "half.keras"
        path.write_bytes((ASSETS / "cifar10-cnn.keras").read_bytes()[:200_000])
        self.refused(path, f"not a model that Keras {keras.__version__} can load")

    def test_a_model_of_a_newer_keras(self, tmp_path):
        path = tmp_path / "newer.keras"
        with zipfile.ZipFile(ASSETS / "cifar10-cnn.keras") as model, zipfile.ZipFile(path, "w") as newer:
            for name in model.namelist():
                content = model.read(name)
                newer.writestr(name, content.replace(b'"units": 64', b'"units": 64, "mood": 1'))
        self.refused(path, "Unrecognized keyword arguments passed to Dense: {'mood': 1}")

    def test_pictures_of_another_size(self, tmp_path):
        path = save(tmp_path / "big.keras", keras.layers.Flatten(), keras.layers.Dense(3), shape=(64, 64, 3))
        self.refused(path, "(None, 64, 64, 3)", "(None, 32, 32, 3)")

    def test_an_output_that_is_no_row_of_scores(self, tmp_path):
        self.refused(save(tmp_path / "map.keras", keras.layers.Conv2D(4, 3)), "(None, 30, 30, 4)", "(None, classes)")
        one = save(tmp_path / "one.keras", keras.layers.Flatten(), keras.layers.Dense(1))
        self.refused(one, "(None, 1)", "2 classes or more")

    def test_a_sigmoid_at_the_end(self, tmp_path):
        layers = keras.layers.Flatten(), keras.layers.Dense(3, activation="sigmoid")
        self.refused(save(tmp_path / "sigmoid.keras", *layers), "ends in sigmoid")

    def test_a_card_that_does_not_fit(self, tmp_path):
        path = save(tmp_path / "carded.keras", keras.layers.Flatten(), keras.layers.Dense(3))
        card = path.with_suffix(".json")
        for text, complaint in (
            ('{"class_names": ["a", "b"]}', "names 2 classes, but carded.keras has 3"),
            ('{"class_names": "abc"}', "must be a list of names"),
            ('{"labels": []}', "not a model card"),
            ("[]", "not a model card"),
            ("{", "not a model card"),
        ):
            card.write_text(text)
            with pytest.raises(ModelError, match=r"carded\.json") as refusal:
                load_classifier("tensorflow", path)
            assert complaint in str(refusal.value)
            assert "\n" not in str(refusal.value)


def test_a_model_without_a_card_has_numbered_classes(tmp_path):
    path = save(tmp_path / "own.keras", keras.layers.Flatten(), keras.layers.Dense(3))
    assert load_classifier("tensorflow", str(path)).class_names == ("class 0", "class 1", "class 2")
    path.with_suffix(".json").write_text('{"class_names": ["cat", "Hündchen", "猫"]}', encoding="utf-8")
    assert class_names(path, 3) == ("cat", "Hündchen", "猫")


@pytest.mark.parametrize("end", ["activation", "layer", "nested"])
def test_a_softmax_in_the_model_is_not_applied_twice(tmp_path, end):
    logits = [keras.layers.Flatten(), keras.layers.Dense(3)]
    ends = {
        "activation": [keras.layers.Activation("softmax")],
        "layer": [keras.layers.Softmax()],
        "nested": [keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, activation="softmax")])],
    }
    path = save(tmp_path / "soft.keras", *logits, *ends[end])
    model = keras.models.load_model(path)
    expected = keras.ops.convert_to_numpy(model(pictures(4).transpose(0, 2, 3, 1) / np.float32(255)))
    scores = load_classifier("tensorflow", path).scores(pictures(4))
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not here")
def test_the_card_tells_the_accuracy_on_pictures_never_trained_on(classifier):
    from PIL import Image

    card = json.loads((ASSETS / "cifar10-cnn.json").read_text(encoding="utf-8"))
    with zipfile.ZipFile(DATA) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        labels = np.array([CIFAR10.index(Path(name).parent.name) for name in names])
        # The split as `train` made it, over the files' numbers instead of their pixels.
        numbers = Pictures(np.arange(len(names)), labels, CIFAR10, "")
        training, held = split(numbers, 0.1, np.random.default_rng(card["training"]["seed"]))
        assert not set(training.pixels) & set(held.pixels)
        opened = [Image.open(BytesIO(archive.read(names[number]))).convert("RGB") for number in held.pixels]
    pixels = np.ascontiguousarray(np.stack(opened).transpose(0, 3, 1, 2))
    predicted = np.concatenate([classifier.scores(batch).argmax(axis=1) for batch in np.split(pixels, 50)])
    accuracy = (predicted == held.labels).mean()
    assert len(predicted) == card["held_out"]["pictures"] == 5000
    assert accuracy == pytest.approx(card["held_out"]["accuracy"], abs=0.001)
    assert accuracy > 0.75
