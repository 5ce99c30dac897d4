"""A model that cannot be exported is refused in one line, and nothing is written."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import torch.nn.functional as F
from torch import nn

from self2self.errors import Self2SelfError, UsageError, VerificationError
from self2self.live.export import export_live
from self2self.live.model import load_live
from tests.live.networks import Called, UNet, numbers

X = numbers(2, 8)


class Written(nn.Module):
    """A module whose code after dropout is given."""

    def __init__(self, forward: Callable[[nn.Module, torch.Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.drop, self.inner = nn.Linear(8, 8), nn.Dropout(0.2), Inner(forward)

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(self.drop(self.linear(x)))


class Inner(nn.Module):
    def __init__(self, code: Callable[[nn.Module, torch.Tensor], Any]) -> None:
        super().__init__()
        self.code = code

    def forward(self, x: torch.Tensor) -> Any:
        return self.code(self, x)


def layer_drop(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x + 1 if module.training and torch.rand([]) < 0.5 else x


def choice(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x * (1.0 if random.random() < 0.5 else 2.0)


def numpy_choice(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x * float(np.random.rand())  # noqa: NPY002


def permuted(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x[:, torch.randperm(8)] if module.training else x


def view_in_place(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x + F.dropout(x.view(-1), 0.3, module.training, inplace=True).view_as(x)


def filled_in_place(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    noise = torch.ones_like(x)
    noise[:, :4].bernoulli_(0.5)
    return x * noise


def scaled_in_training(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return F.dropout(2 * x, 0.5) if module.training else x


def more_in_training(module: nn.Module, x: torch.Tensor) -> Any:
    return (F.dropout(x), x) if module.training else x


def in_branch(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.cond(x.sum() > 0, lambda y: F.dropout(y, 0.5), lambda y: y - 1, (x,))


def idle(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x + 0 * F.dropout(x, 0.5, module.training)


def leaves(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    raise SystemExit(0)


def branching(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x + 1 if x.sum() > 0 else x


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(8, 4, 2, dropout=0.3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([3, 2]), batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(self.layers(packed)[0], batch_first=True)[0]


REFUSED: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "no dropout": (nn.Linear(8, 8), X, {}, "draws no random numbers"),
    "no module": (len, X, {}, "expected a torch.nn.Module"),
    "layer drop": (Written(layer_drop), X, {}, r"inner branches on the values of a tensor.*LayerDrop"),
    "branching": (Written(branching), X, {}, "inner branches on the values of a tensor"),
    "random": (Written(choice), X, {}, "inner draws random numbers outside of PyTorch's operators"),
    "numpy": (Written(numpy_choice), X, {}, "inner draws random numbers outside of PyTorch's operators"),
    "no rule": (Written(permuted), X, {}, r"inner: draws with aten\.randperm.* no rule"),
    "view": (Written(view_in_place), X, {}, "inner: drops out in place a tensor that is used elsewhere"),
    "part": (Written(filled_in_place), X, {}, "inner: fills a tensor in place"),
    "outputs": (Written(more_in_training), X, {}, "must return the same in both"),
    # PyTorch 2.7 and 2.8 themselves refuse to run it while its operators are watched.
    "branch": (Written(in_branch), X, {}, r"torch\.cond|no rule registered for HOP cond"),
    "packed": (Packed(), numbers(2, 3, 8), {}, "the model itself packs sequences"),
    "no such input": (Called(), X, {"dynamic": {"y": (0,)}}, "dynamic names y; the inputs are x"),
    "no such axis": (Called(), X, {"dynamic": {"x": (2,)}}, r"dynamic names axes \[2\] of x"),
    "fixed axis": (Called(), X, {"dynamic": {"x": (0, 1)}}, "fixes the size of an axis"),
    "short axis": (UNet(), numbers(1, 3, 8, 1), {"dynamic": {"x": (0, 3)}}, "axis 3 of example input x has 1"),
    "wrong shape": (Called(), numbers(2, 9), {}, "does not run on the example inputs, in linear"),
    "wrong number": (Called(), (X, X), {}, r"do not fit Called\.forward"),
    "no tensor": (Called(), (3,), {}, "example input x is int"),
    "complex": (Called(), X.to(torch.complex64), {}, "is torch.complex64"),
    "kind": (Called(), X, {"kind": "classes"}, "kind is 'classes'"),
    "number of kinds": (Called(), X, {"kind": ("logits", "value")}, "kind has 2 entries"),
    "nothing left": (Called(), X, {"include": "head.*"}, r"the pattern head\.\* matches no draw; the draws are drop"),
    "nothing stays": (Called(), X, {"exclude": "*"}, "the patterns leave no draw; the draws are drop"),
    "typo": (Called(), X, {"include": ["drop", "typo"]}, "the pattern typo matches no draw"),
    "idle exclude": (Called(), X, {"exclude": "zzz"}, "the pattern zzz matches no draw"),
    "no pattern": (Called(), X, {"exclude": 3}, "exclude is 3; expected a pattern"),
    "no text": (Called(), X, {"include": ["drop", 3]}, "include is .*; expected a pattern"),
    "no axes": (Called(), X, {"dynamic": {"x": 0}}, "dynamic is 0; expected axes"),
    "no axis": (Called(), X, {"dynamic": {"x": ("a",)}}, "dynamic is 'a'; expected axes"),
    "no kind": (Called(), X, {"kind": 3}, "kind is 3; expected a name"),
    "no inputs": (Called(), None, {}, "example_inputs is NoneType; expected a tensor"),
    "number": (Called(), 3, {}, "example_inputs is int; expected a tensor"),
    "leaves": (Written(leaves), X, {}, r"does not run on the example inputs, in inner \(0\)"),
    "range": (Called(), X, {"kind": "probabilities"}, r"output output has no probabilities: .*--kind logits; else"),
    "sum": (
        nn.Sequential(nn.Linear(8, 3), nn.Dropout(0.5), nn.Sigmoid()),
        X,
        {"kind": "probabilities"},
        r"output output has no probabilities: it has values whose sum",
    ),
    "cannot leave out": (
        nn.Sequential(Inner(lambda module, x: x * torch.rand_like(x)), nn.Dropout(0.5)),
        X,
        {"exclude": "0"},
        "even in evaluation mode",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_is_refused_in_one_line(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, inputs, options, message = REFUSED[name]
    with pytest.raises(UsageError, match=message) as caught:
        export_live(model, inputs, tmp_path / "m.onnx", **options)
    check_line(caught.value)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def check_line(error: Self2SelfError) -> None:
    assert "\n" not in str(error)
    assert str(error).endswith((".", ")"))


@pytest.mark.parametrize(
    ("code", "message"),
    [(scaled_in_training, "differs from model.eval"), (idle, "1 of 2 draws change no output.*inner")],
)
def test_a_file_that_would_compute_something_else_is_not_written(code: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=message) as caught:
        export_live(Written(code), X, tmp_path / "m.onnx")
    check_line(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["value", "logits"])
def test_weights_that_are_not_finite_are_named(kind: Any, tmp_path: Path) -> None:
    model = Called()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(
        VerificationError, match=r"output output has values that are not finite.*Check the weights"
    ) as e:
        export_live(model, X, tmp_path / "m.onnx", kind=kind)
    check_line(e.value)


def test_inputs_and_outputs_may_require_gradients(tmp_path: Path) -> None:
    class Both(nn.Sequential):
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x), self[0].weight

    x = X.clone().requires_grad_()
    done = export_live(Both(nn.Linear(8, 3), nn.Dropout(0.5)), x, tmp_path / "m.onnx")
    assert done.onnx_difference is not None
    assert x.requires_grad


@pytest.mark.parametrize("classes", [1, 3])
def test_probabilities_are_accepted(classes: int, tmp_path: Path) -> None:
    last = nn.Softmax(1) if classes > 1 else nn.Sigmoid()
    model = nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.5), nn.Linear(4, classes), last)
    export_live(model, X, tmp_path / "m.onnx", kind="probabilities")
    found = load_live(tmp_path / "m.onnx").predict(X.numpy(), 5)
    assert (found.entropy >= 0).all()


def test_the_model_stays_as_it_was(tmp_path: Path) -> None:
    model = UNet().train()
    model.last.eval()
    flags = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = numbers(1, 3, 8, 8)
    state = torch.get_rng_state(), random.getstate()
    export_live(model, inputs, None)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_patterns_choose_what_stays() -> None:
    def sites(**options: Any) -> list[str]:
        done = export_live(UNet(), numbers(1, 3, 8, 8), None, **options)
        assert done.path is None
        return [mask.site for mask in done.contract.masks]

    assert sites(include="last.*") == ["last.layers.3"]
    assert sites(exclude=["last.*", "first*"]) == ["second.layers.3"]
