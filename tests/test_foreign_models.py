"""Models that were trained otherwise: what they take and give is found out, or refused in one line.

TensorFlow and OpenVINO run in this process; JAX, which needs Keras on another backend, in one of its own."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from shm_server.models import ModelError, load_classifier
from shm_server.models.card import read_card

tensorflow = pytest.importorskip("tensorflow", reason="needs the extra [tensorflow]")
# Engines ask for one thread, and TensorFlow has one number of threads a process.
tensorflow.config.threading.set_intra_op_parallelism_threads(1)
tensorflow.config.threading.set_inter_op_parallelism_threads(1)

import model_zoo as zoo  # noqa: E402

# One of each mechanism, for the engines beside TensorFlow.
FEW = ("normalization", "uint8", "a_class_of_their_own", "float16_probabilities")
FEWER = ("a_class_of_their_own", "float16_probabilities")  # JAX compiles for seconds


def pictures() -> np.ndarray:
    """Smooth random pictures, not those that a model is tried on."""
    rng = np.random.default_rng(zoo.SEED)
    return rng.integers(0, 256, (16, 3, 4, 4), np.uint8).repeat(8, axis=2).repeat(8, axis=3)


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    scores = zoo.expected(pictures())
    assert len(set(scores.argmax(axis=1))) > 3, "the pictures tell nothing apart"
    return scores


def saved(build, path: Path, **card) -> Path:
    """The file of a model, with a card that says that."""
    if card:
        path.with_suffix(".json").write_text(json.dumps(card))
    with warnings.catch_warnings(action="ignore"):  # of models that are not built
        return zoo.save(build, path)


def needs(framework: str) -> None:
    """Skips a test where the framework is missing, without importing it."""
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"needs the extra [{framework}]")


def check(engine: str, path: Path, expected: np.ndarray) -> None:
    scores = load_classifier(engine, path).scores(pictures())
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=zoo.ROUGH.get(path.stem, 1e-5))


def refusal(path: Path, engine: str = "tensorflow") -> str:
    with pytest.raises(ModelError) as refused:
        load_classifier(engine, path)
    message = str(refused.value)
    assert message.startswith(f"{path.parent}/{path.stem}.")
    assert message.isprintable()
    assert len(message) < 600
    return message


@pytest.mark.parametrize("name", zoo.ALIKE)
def test_whatever_pixels_it_takes_and_scores_it_gives_the_answers_are_its_own(tmp_path, expected, name):
    check("tensorflow", saved(zoo.ALIKE[name], tmp_path / f"{name}.keras"), expected)


@pytest.mark.parametrize("name", FEW)
def test_openvino_finds_out_the_same(tmp_path, expected, name):
    needs("openvino")
    check("openvino", saved(zoo.ALIKE[name], tmp_path / f"{name}.keras"), expected)


JAX = """
import sys
import numpy as np
from shm_server.models import load_classifier
from shm_server.models.keras_file import import_keras
from shm_server.models.xla import use_threads
use_threads(1)
import_keras("jax")
import model_zoo  # registers its classes
pixels, folder, *names = np.load(sys.argv[1]), *sys.argv[2:]
np.savez(f"{folder}/scores.npz", *(load_classifier("jax", f"{folder}/{name}.keras").scores(pixels) for name in names))
"""


def test_jax_finds_out_the_same(tmp_path, expected):
    needs("jax")
    for name in FEWER:
        saved(zoo.ALIKE[name], tmp_path / f"{name}.keras")
    np.save(tmp_path / "pixels.npy", pictures())
    command = [sys.executable, "-c", JAX, tmp_path / "pixels.npy", tmp_path, *FEWER]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "KERAS_BACKEND": "jax"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "scores.npz") as scores:
        for name, key in zip(FEWER, scores.files, strict=True):
            np.testing.assert_allclose(scores[key], expected, atol=zoo.ROUGH.get(name, 1e-5), err_msg=name)


@pytest.mark.parametrize("name", zoo.REFUSED)
def test_what_can_not_be_served_is_refused_in_one_line(tmp_path, name):
    build, complaint = zoo.REFUSED[name]
    assert complaint in refusal(saved(build, tmp_path / f"{name}.keras"))


def test_what_openvino_can_not_run_is_refused_in_one_line(tmp_path):
    needs("openvino")
    path = saved(zoo.ALIKE["bfloat16_logits"], tmp_path / "bfloat16.keras")
    assert "bfloat16 on OpenVINO fails: Unsupported operation" in refusal(path, "openvino")


class TestPixels:
    """What a file does not say, its card may."""

    def test_a_card_says_what_the_file_does_not(self, tmp_path, expected):
        bytes_, signed = {"scale": 1 / 255}, {"scale": 0.5, "offset": 0.5}
        for said, form in (("0..255", bytes_), ("-1..1", signed), ("0..1", {})):
            check(
                "tensorflow", saved(lambda form=form: zoo.network(**form), tmp_path / "n.keras", pixels=said), expected
            )

    def test_without_a_word_they_go_to_1_and_a_warning_says_so(self, tmp_path, caplog):
        load_classifier("tensorflow", saved(zoo.network, tmp_path / "silent.keras"))
        (warning,) = caplog.messages
        assert "silent.keras does not say what pixels it takes, 0..1 is assumed: say" in warning
        assert warning.endswith('"pixels": "0..1", "0..255" or "-1..1" in silent.json')

    def test_a_network_trained_on_bytes_that_does_not_say_so_is_doubted(self, tmp_path, caplog):
        load_classifier("tensorflow", saved(lambda: zoo.network(scale=1 / 255), tmp_path / "bytes.keras"))
        assert "0..1 is assumed; it tells them apart much better in 0..255" in caplog.text

    def test_one_to_which_the_scale_does_not_matter_is_not_warned_of(self, tmp_path, caplog):
        def build():
            def standard(x):
                spread = zoo.ops.std(x, axis=(1, 2, 3), keepdims=True) + 1e-9
                return (x - zoo.ops.mean(x, axis=(1, 2, 3), keepdims=True)) / spread

            return zoo.after(standard)()

        load_classifier("tensorflow", saved(build, tmp_path / "standard.keras"))
        assert not caplog.messages

    def test_a_card_of_another_model_is_not_believed(self, tmp_path, expected, caplog):
        """It says 0..1 of one that divides by 255, and would then answer the same for every picture."""
        check("tensorflow", saved(zoo.ALIKE["rescaling"], tmp_path / "r.keras", pixels="0..1"), expected)
        assert "scales pixels in 0..255 itself and gets those, though its card says 0..1" in caplog.text

    def test_a_card_is_believed_where_the_answers_bear_it_out(self, tmp_path, expected, caplog):
        """Whoever scaled twice in training has to do so in serving."""
        twice = zoo.after(lambda x: zoo.layers.Rescaling(1 / 255)(x), scale=255)
        check("tensorflow", saved(twice, tmp_path / "twice.keras", pixels="0..1"), expected)
        assert "gets pixels in 0..1, as its card says, though it scales those in 0..255" in caplog.text

    def test_whole_numbers_can_not_go_to_1(self, tmp_path):
        path = saved(zoo.ALIKE["uint8"], tmp_path / "whole.keras", pixels="0..1")
        assert "takes uint8, hence pixels in 0..255, but its card says 0..1" in refusal(path)


class TestOutputs:
    def test_a_card_may_call_bounded_outputs_logits(self, tmp_path):
        build, _ = zoo.REFUSED["sigmoids"]
        path = saved(build, tmp_path / "bounded.keras", outputs="logits")
        outputs = zoo.keras.models.load_model(path)(pictures().transpose(0, 2, 3, 1) / np.float32(255))
        np.testing.assert_allclose(
            load_classifier("tensorflow", path).scores(pictures()), zoo.ops.softmax(outputs), atol=1e-5
        )

    def test_a_card_that_calls_probabilities_logits_is_not_believed(self, tmp_path, expected, caplog):
        check("tensorflow", saved(zoo.ALIKE["softmax_layer"], tmp_path / "s.keras", outputs="logits"), expected)
        assert "gives probabilities, though its card says logits" in caplog.text

    def test_a_card_that_calls_logits_probabilities_is_refused(self, tmp_path):
        path = saved(zoo.network, tmp_path / "logits.keras", outputs="probabilities")
        assert "which are not the probabilities that its card says" in refusal(path)

    def test_logits_that_are_near_0_on_pictures_are_logits(self, tmp_path):
        """Small enough to pass for what a sigmoid gives, were they looked at on pictures only."""
        build = zoo.before(lambda x: 0.5 + 1e-3 * x)
        path = saved(build, tmp_path / "small.keras")
        outputs = zoo.keras.models.load_model(path)(pictures().transpose(0, 2, 3, 1) / np.float32(255))
        assert 0 < zoo.ops.min(outputs) < zoo.ops.max(outputs) < 1
        np.testing.assert_allclose(
            load_classifier("tensorflow", path).scores(pictures()), zoo.ops.softmax(outputs), atol=1e-5
        )

    def test_one_that_always_answers_the_same_is_warned_of(self, tmp_path, caplog):
        load_classifier("tensorflow", saved(zoo.before(lambda x: 0 * x), tmp_path / "blind.keras", pixels="0..1"))
        assert "blind.keras gives all pictures the same scores" in caplog.text

    def test_what_was_found_is_logged(self, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        load_classifier("tensorflow", saved(zoo.ALIKE["float16_probabilities"], tmp_path / "half.keras", pixels="0..1"))
        (line,) = caplog.messages
        assert "half.keras takes pixels in 0..1 (its card says so), gives probabilities, float16 of " in line
        assert "whose rows sum to 0.99" in line or "whose rows sum to 1 " in line


class TestCards:
    def card(self, folder: Path, text: str | bytes) -> Path:
        (folder / "model.json").write_bytes(text.encode() if isinstance(text, str) else text)
        return folder / "model.keras"

    def test_what_describes_a_model_to_people_may_stand_in_it(self, tmp_path):
        path = self.card(
            tmp_path, '\ufeff{"class_names": ["猫", "a b"], "author": "N. N.", "output": "any", "metric": 1}'
        )
        assert read_card(path) == (("猫", "a b"), None, None)

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ('{"pixels": "0-255"}', 'pixels must be "0..1" or "0..255" or "-1..1", not "0-255"'),
            ('{"pixels": 255}', "not 255"),
            ('{"pixels": null}', "not null"),
            ('{"outputs": ["logits"]}', 'outputs must be "logits" or "probabilities", not ["logits"]'),
            ('{"class_names": ["a", "b"], "pixel": "0..255"}', "'pixel' is not read: did you mean 'pixels'?"),
            ('{"class_names": ["a", "b"], "Outputs": "logits"}', "'Outputs' is not read: did you mean 'outputs'?"),
            ('{"classnames": ["a", "b"], "pixels": "0..1"}', "'classnames' is not read: did you mean 'class_names'?"),
            ('{"class_names": ["a", "\\ud800"]}', "can not be shown"),
            ('{"class_names": ["a", "b\\u001b[2J"]}', "can not be shown"),
            ('{"class_names": ["a", "a"]}', "two classes bear the name 'a'"),
            ('{"class_names": ["a", ""]}', "must be a list of names"),
            ("[" * 100_000, "not a model card"),
            (b'{"class_names": ["\xff"]}', "not a model card"),
            ("{}", "not a model card"),
            (" " * (1 << 20) + "{}", "more than 1048576 bytes"),
        ],
    )
    def test_what_is_wrong_with_one_is_said_in_one_line(self, tmp_path, text, complaint):
        with pytest.raises(ModelError) as refused:
            read_card(self.card(tmp_path, text))
        message = str(refused.value)
        assert complaint in message
        assert message.startswith(str(tmp_path / "model.json"))
        assert message.isprintable()

    def test_one_that_is_no_file_is_refused(self, tmp_path):
        os.mkfifo(tmp_path / "model.json")  # which would be read for ever
        with pytest.raises(ModelError, match="no file"):
            read_card(tmp_path / "model.keras")
