"""CONTRIBUTING's recipes do what they say: each is followed, with the code that stands there."""

import re
import sys
import threading
from types import ModuleType

import numpy as np
import pytest
from client import Client
from conftest import ROOT

from shm_server.door.listener import Listener
from shm_server.layout import Op, Status
from shm_server.models import ModelError, engines, trial
from shm_server.worker.control import Control

ENGINE, PROTOCOL = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)


@pytest.fixture
def npz(tmp_path, monkeypatch):
    """One file in the package's folder, one name in its line."""
    (tmp_path / "npz.py").write_text(ENGINE)
    monkeypatch.setattr(engines, "__path__", [*engines.__path__, str(tmp_path)])
    monkeypatch.setattr(engines, "ENGINES", (*engines.ENGINES, "npz"))
    monkeypatch.delitem(sys.modules, "shm_server.models.engines.npz", raising=False)


def test_what_the_package_exports_is_hidden_by_none_of_its_modules():
    """`from shm_server.models import trial` is the function, whatever was imported before."""
    import shm_server.models as package

    folder = ROOT / "shm_server" / "models"
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    exported = {name for name in package.__all__ if not isinstance(getattr(package, name), ModuleType)}
    assert not exported & modules


def test_an_engine_is_added(npz, tmp_path):
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "layer.npz", w=w)
    model = engines.load(tmp_path / "layer.npz")
    trial(model)
    assert (model.name, model.platform) == ("layer", "numpy_npz")
    assert [(each.name, each.datatype, each.shape) for each in model.signature.outputs] == [("y", "FP32", (3,))]
    y = np.empty((4, 3), np.float32)
    model.run({"x": np.ones((4, 2), np.float32)}, {"y": y})
    assert y.tolist() == [[3, 5, 7]] * 4
    (tmp_path / "broken.npz").write_bytes(b"this is none")
    with pytest.raises(ModelError, match=r"broken\.npz: no linear layer: "):
        engines.load(tmp_path / "broken.npz")
    assert engines.kind_of(tmp_path / "layer.npz") == ".npz"


def test_a_protocol_is_added(tmp_path):
    names: dict = {}
    exec(PROTOCOL, names)
    dispatcher = names["LargestDispatcher"](spin_us=0, limit=8)
    with Listener(tmp_path / "sock") as listener:
        control = Control(dispatcher, listener, max_sessions=2)
        listening = threading.Event()
        control.when_listening = listening.set
        serving = threading.Thread(target=control.run)
        serving.start()
        assert listening.wait(300)
        try:
            with Client(tmp_path / "sock") as client:
                assert client.signature["name"] == "largest"
                client.slots[:] = np.arange(64, dtype=np.uint8)
                client.submit(3, Op.RUN)
                client.submit(4, Op.ECHO)
                done = client.wait()
                assert (done["slot"], done["status"], client.replies[3, 0]) == (3, Status.OK, 63)
                assert client.wait()["slot"] == 4
        finally:
            control.stop()
            serving.join(300)
    assert control.counters()["calls"] == 1
