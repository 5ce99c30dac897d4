"""Every draw of PyTorch becomes an input, and with equal draws the file computes what PyTorch computes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from self2self.live.draws import draw_pass
from self2self.live.export import LiveExport, export_live
from self2self.live.model import LiveModel, load_live
from self2self.live.program import named_tensors
from tests.live.networks import CASES, Case
from tests.live.reference import Given


def training(model: Any) -> None:
    """Training mode, but for what only normalises."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._NormBase):
            module.eval()


def more(case: Case, samples: int) -> tuple[Any, ...]:
    """The example inputs with `samples` samples, all different."""
    generator = torch.Generator().manual_seed(7)
    grown = []
    for value in case.inputs:
        if value.ndim < 2:
            grown.append(value)
        elif value.dtype == torch.bool:
            grown.append(value[torch.arange(samples) % len(value)])
        else:
            grown.append(torch.randn((samples, *value.shape[1:]), generator=generator))
    return tuple(grown)


def exported(name: str, folder: Path) -> tuple[Any, LiveExport, LiveModel]:
    torch.manual_seed(3)
    model = CASES[name].make()
    done = export_live(model, CASES[name].inputs, folder / f"{name}.onnx", dynamic=CASES[name].dynamic)
    return model, done, load_live(folder / f"{name}.onnx")


@pytest.mark.parametrize("name", CASES)
def test_every_draw_is_an_input_and_the_file_equals_pytorch(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model, done, live = exported(name, tmp_path)
    contract = live.contract
    assert [(mask.site, mask.operator) for mask in contract.masks] == list(case.draws)
    assert contract == done.contract
    assert contract.separable is case.separable
    assert done.onnx_difference <= 1e-5
    assert done.neutral_difference is None or done.neutral_difference <= 1e-6
    if not case.injected:
        return
    session = onnxruntime.InferenceSession(live.path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    for samples in (2, 3):
        inputs = more(case, samples)
        arrays = dict(zip([item.name for item in contract.inputs], [value.numpy() for value in inputs], strict=True))
        axes = {axis: arrays[which].shape[index] for axis, (which, index) in contract.axes.items()}
        draws = draw_pass(contract, axes, 5, samples)
        training(model)
        with torch.no_grad(), Given([torch.from_numpy(draw) for draw in draws_in_order(contract, draws)]) as given:
            wanted = named_tensors(model(*inputs))
        assert not given.left
        got = live.one_pass(arrays, live.once(arrays), draws)
        assert list(got) == list(wanted)
        whole = session.run(list(got), {name: {**arrays, **draws}[name] for name in names})
        for values, uncut in zip(got.values(), whole, strict=True):
            # ONNX Runtime joins operators across the cut in these, which changes their last bit.
            last_bit = 1e-6 if name in ("attention", "encoder") else 0
            np.testing.assert_allclose(values, uncut, rtol=0, atol=last_bit * np.abs(uncut).max())
        for output, values in wanted.items():
            largest = float(values.abs().max())
            np.testing.assert_allclose(got[output], values.numpy(), rtol=0, atol=1e-5 * largest)


def draws_in_order(contract: Any, draws: dict[str, Any]) -> Iterator[Any]:
    return (draws[mask.name] for mask in contract.masks)


def test_many_passes_are_distributed_as_pytorchs_own(tmp_path: Path) -> None:
    model, _, live = exported("functional", tmp_path)
    inputs = more(CASES["functional"], 3)[0]
    passes = 4000
    found = live.predict(inputs.numpy(), passes, seed=1).first
    torch.manual_seed(2)
    with torch.no_grad():
        own = model.train()(inputs.repeat(passes, 1)).reshape(passes, 3, -1).double()
    mean, std = own.mean(0).numpy(), own.std(0).numpy()
    z = (found.mean - mean) / np.sqrt((found.std.astype(np.float64) ** 2 + std**2) / passes)
    assert 0.4 < np.sqrt(np.mean(z**2)) < 1.8
    np.testing.assert_allclose(found.std, std, rtol=0.06)
    assert abs(np.mean(found.std / std) - 1) < 0.02


@pytest.mark.parametrize("sign", [1, -1])
def test_rrelu_is_found_whatever_the_signs_of_the_example(sign: int, tmp_path: Path) -> None:
    inputs = (sign * torch.ones(2, 4),)
    done = export_live(torch.nn.Sequential(torch.nn.Identity(), torch.nn.RReLU()), inputs, tmp_path / "model.onnx")
    assert [(mask.site, mask.draw) for mask in done.contract.masks] == [("1", "uniform")]
