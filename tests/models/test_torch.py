"""`.pt2` files on PyTorch, which is not installed by `make`: see `make test-torch`."""

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra [torch]: make test-torch")

from shm_server.models import Model, ModelError, load, trial  # noqa: E402


class Linear(torch.nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(3)
        self.layer = torch.nn.Linear(4, 3, dtype=dtype)

    def forward(self, x):
        return self.layer(x)


class Detector(Linear):
    def forward(self, x, *, place):
        return {"scores": self.layer(x), "moved": place + 1}


class Pair(Linear):
    def forward(self, x):
        return self.layer(x), x.argmax(dim=1)


class MaskedMean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.words = torch.nn.Embedding(20, 4)

    def forward(self, ids, mask):
        weights = mask.to(torch.float32).unsqueeze(-1)
        return (self.words(ids) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


BATCH = torch.export.Dim("batch", max=1024)


def exported(path, module, *args, shapes=({0: BATCH},), **kwargs):
    program = torch.export.export(module.eval(), args, kwargs, dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


def run(model: Model, inputs: dict, extent: int | None = None) -> dict[str, np.ndarray]:
    outputs = model.signature.empty(model.signature.outputs, len(next(iter(inputs.values()))), extent)
    for array in inputs.values():
        array.flags.writeable = False
    model.run(inputs, outputs)
    return outputs


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_of_rows_is_answered(tmp_path, count):
    module = Linear()
    model = load(exported(tmp_path / "linear.pt2", module, torch.zeros(2, 4)))
    trial(model)
    assert (model.name, model.platform) == ("linear", "torch_pt2")
    x = np.random.default_rng(1).random((count, 4), np.float32)
    np.testing.assert_allclose(run(model, {"x": x})["output"], module(torch.tensor(x)).detach(), atol=1e-6)


def test_outputs_are_named_by_a_dict_or_by_their_order(tmp_path):
    shapes = {"x": {0: BATCH}, "place": {0: BATCH}}
    path = exported(tmp_path / "d.pt2", Detector(), torch.zeros(2, 4), place=torch.zeros(2, 2), shapes=shapes)
    model = load(path)
    trial(model)
    assert {tensor.name for tensor in model.signature.inputs} == {"x", "place"}
    assert {(t.name, t.shape) for t in model.signature.outputs} == {("scores", (3,)), ("moved", (2,))}
    pair = load(exported(tmp_path / "pair.pt2", Pair(), torch.zeros(2, 4)))
    trial(pair)
    assert [(t.name, t.datatype, t.shape) for t in pair.signature.outputs] == [
        ("output_0", "FP32", (3,)),
        ("output_1", "INT64", ()),
    ]


def test_a_symbolic_dimension_is_bounded_by_the_card(tmp_path):
    tokens = torch.export.Dim("tokens", max=1024)
    ids = torch.ones(2, 8, dtype=torch.int64)
    path = exported(tmp_path / "text.pt2", MaskedMean(), ids, ids, shapes=({0: BATCH, 1: tokens},) * 2)
    with pytest.raises(ModelError, match="input 'ids': expected a bound"):
        load(path)
    path.with_suffix(".toml").write_text("[bounds]\ntokens = 32\n")
    model = load(path)
    trial(model)
    assert [tensor.shape for tensor in model.signature.inputs] == [("tokens",)] * 2


def test_bfloat16_is_carried_as_it_is(tmp_path):
    module = Linear(torch.bfloat16)
    model = load(exported(tmp_path / "half.pt2", module, torch.zeros(2, 4, dtype=torch.bfloat16)))
    trial(model)
    x = np.random.default_rng(1).random((3, 4), np.float32).astype(ml_dtypes.bfloat16)
    wanted = module(torch.tensor(x.astype(np.float32)).to(torch.bfloat16)).float().detach()
    np.testing.assert_allclose(run(model, {"x": x})["output"].astype(np.float32), wanted, atol=1e-2)


def test_a_file_of_one_row_runs_row_by_row(tmp_path):
    module = Linear()
    model = load(exported(tmp_path / "one.pt2", module, torch.zeros(1, 4), shapes=None))
    trial(model)
    x = np.random.default_rng(1).random((3, 4), np.float32)
    np.testing.assert_allclose(run(model, {"x": x})["output"], module(torch.tensor(x)).detach(), atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04"])
def test_a_broken_file_is_refused(tmp_path, content):
    path = tmp_path / "broken.pt2"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken.pt2: not a program that PyTorch \S+ can load: "):
        load(path)
