"""Captures a network as a program with `torch.export`, and runs such a program."""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from self2self.errors import UsageError, first_line, shown
from self2self.live.watch import ModuleStack

aten = torch.ops.aten

FreeAxes = Mapping[str, Sequence[int]]
"""From the name of an input to the axes whose length may differ."""


def capture(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], free: Sequence[Sequence[int]]
) -> ExportedProgram:
    """Capture `model` as it is, with axis 0 of all inputs as one batch; call it within `undisturbed`.

    Args:
        model: each module in the mode that it shall have in the program.
        args: tensors.
        kwargs: further tensors.
        free: for each tensor of `args` and then `kwargs`, the axes whose length may differ.

    Raises:
        UsageError: the model cannot be captured.
    """
    # Without a bound, PyTorch before 2.8 takes the guard "not 2**63 - 1" of some operators for a size that is fixed.
    batch = torch.export.Dim("batch", max=2**31)
    shapes = [{axis: torch.export.Dim.DYNAMIC if axis else batch for axis in axes} or None for axes in free]
    stack = ModuleStack()
    try:
        # Before its error, PyTorch prints the graph so far.
        with stack.on(model), capturing(), redirect_stderr(io.StringIO()):
            return torch.export.export(
                model, args, dict(kwargs), dynamic_shapes=_in_the_form_of(model, args, kwargs, shapes), strict=False
            )
    except Exception as error:
        # torch.export raises errors of many classes that share no base.
        raise UsageError(_reason(error, stack.innermost)) from error


def _in_the_form_of(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], shapes: list[Any]
) -> dict[str, Any]:
    """`shapes` by the names of the parameters of ``model.forward``."""
    bound = inspect.signature(model.forward).bind(*range(len(args)), **{k: i for i, k in enumerate(kwargs, len(args))})
    return {
        name: pytree.tree_map(lambda index: shapes[index], index if not isinstance(index, list) else tuple(index))
        for name, index in bound.arguments.items()
    }


def _reason(error: Exception, module: str) -> str:
    text = str(error)
    if "data-dependent" in text or "DataDependent" in type(error).__name__:
        return (
            f"{module} branches on the values of a tensor, as LayerDrop does, so it is no fixed program. "
            "Set the rate of LayerDrop to 0, or compute both branches and choose with torch.where."
        )
    if "specialized" in text or "Constraints violated" in text or "ConstraintViolation" in type(error).__name__:
        return (
            f"the model fixes the size of an axis that was to be free ({shown(_told(text))}). "
            "Name only axes that may differ (dynamic)."
        )
    return f"torch.export cannot capture the model, in {module} ({shown(first_line(error))})."


def _told(text: str) -> str:
    """The line of a message of torch.export that says which axis was fixed."""
    lines = [
        line.strip(" -") for line in text.splitlines() if "pecializ" in line or "must be" in line or "batch" in line
    ]
    return lines[0] if lines else text.splitlines()[0]


@contextmanager
def capturing() -> Iterator[None]:
    """Settings under which programs are captured and converted: no warnings, and operators that keep all sizes free."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            # oneDNN's operators would take the place of those that have rules.
            with torch.backends.mkldnn.flags(enabled=False), torch.no_grad(), _recurrent_shapes():
                yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _recurrent_shapes() -> Iterator[None]:
    """Let recurrent layers tell the shapes of their results.

    Otherwise PyTorch would take them apart into a loop over time, which fixes the length of the sequence.
    """
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    operators = {aten.lstm.input: True, aten.gru.input: False, aten.rnn_tanh.input: False, aten.rnn_relu.input: False}
    saved = {op: dict(op.py_kernels) for op in operators}
    try:
        for op, has_cell in operators.items():
            op.py_kernels[key] = _shapes_of_lstm if has_cell else _shapes_of_gru
            op._dispatch_cache.clear()
        yield
    finally:
        for op, kernels in saved.items():
            op.py_kernels.clear()
            op.py_kernels.update(kernels)
            op._dispatch_cache.clear()


def _shapes_of_lstm(
    x: torch.Tensor,
    hx: Sequence[torch.Tensor],
    params: Any,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    # The output has the width of the hidden state, which may be smaller than that of the cell.
    width = hx[0].shape[-1] * (2 if bidirectional else 1)
    return (x.new_empty((*x.shape[:-1], width)), *[state.new_empty(state.shape) for state in hx])


def _shapes_of_gru(x: torch.Tensor, hx: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    return _shapes_of_lstm(x, [hx], *rest)


class _Interpreter(torch.fx.Interpreter):
    """Runs a program, with some nodes replaced by others that were computed before."""

    def __init__(self, program: torch.fx.GraphModule, bypass: Mapping[str, str]) -> None:
        super().__init__(program, garbage_collect_values=not bypass)
        self._bypass = bypass

    def run_node(self, n: torch.fx.Node) -> Any:
        if n.name not in self._bypass:
            return super().run_node(n)
        return next(value for node, value in self.env.items() if node.name == self._bypass[n.name])


def run_program(
    program: ExportedProgram, values: Mapping[str, torch.Tensor], bypass: Mapping[str, str] | None = None
) -> list[torch.Tensor]:
    """Run a program on inputs by name, and return its outputs that are tensors.

    Types and sizes are not checked, so a mask may be its keep probability. The nodes that are keys of `bypass` take the
    results of its values.
    """
    inputs = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(values[spec.arg.name].clone())
        elif spec.target in program.state_dict:
            inputs.append(program.state_dict[spec.target])
        else:
            inputs.append(program.constants[str(spec.target)])
    with torch.no_grad():
        results = _Interpreter(program.graph_module, bypass or {}).run(*inputs)
    kinds = [spec.kind for spec in program.graph_signature.output_specs]
    pairs = zip(kinds, results, strict=True)
    return [value for kind, value in pairs if kind is OutputKind.USER_OUTPUT and isinstance(value, torch.Tensor)]


def named_tensors(output: Any) -> dict[str, torch.Tensor]:
    """The tensors of a model's output, whatever holds them, with names of letters, digits and underscores."""
    leaves, _ = pytree.tree_flatten_with_path(output)
    named = [(path, leaf) for path, leaf in leaves if isinstance(leaf, torch.Tensor)]
    names: dict[str, torch.Tensor] = {}
    for path, leaf in named:
        parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", "")))) for key in path]
        joined = "_".join(parts)
        name = "".join(letter if letter.isalnum() else "_" for letter in joined)
        if not name or not name[0].isalpha():
            name = f"output_{name}" if name else "output"
        while name in names:
            name += "_"
        names[name] = leaf
    return names
