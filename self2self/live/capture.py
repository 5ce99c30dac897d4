"""Captures a model as a program whose draws are inputs, describes it by a contract, and converts it to ONNX."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch import nn

from self2self.errors import UsageError, first_line, shown
from self2self.live.contract import DTYPES, OF_CLASSES, Kind, LiveContract, LiveInput, LiveMask, LiveOutput, kinds_of
from self2self.live.patterns import Patterns
from self2self.live.program import capture, capturing, named_tensors
from self2self.live.rewrite import Rewriting, Site
from self2self.live.sizes import Size, evaluate
from self2self.live.watch import Neutral, count_draws, find_drawing, set_training, undisturbed
from self2self.machine.arguments import items, whole_number

if TYPE_CHECKING:
    import onnx

LARGEST_BYTES = 2**31 - 2**24
"""Bytes of the largest weights that fit into one ONNX file, whose length is below 2 GiB."""
_SAMPLES = (2, 3, 5, 7)
"""Numbers of samples in the example; PyTorch would take one sample for a fixed size, and equal sizes for one size."""
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
"""Operators of ONNX that draw."""


class Capture:
    """A captured model; arguments and errors are those of `export.export_live`.

    Attributes:
        model: the model.
        contract: of the file; whether samples are separable is not known yet.
        values: the example inputs by name, with a few samples.
        program: the program with draws as inputs.
        sites: its draws.
        bypass: see `rewrite.Rewriting`.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        dynamic: Mapping[str, Sequence[int]],
        patterns: Patterns,
        kind: Kind | Sequence[Kind],
    ) -> None:
        self.model = model
        self._check_model()
        self._bind(example_inputs)
        self._free = self._free_axes(dynamic)
        self.values = self._with_few_samples()
        args, kwargs = self._arguments(self.values)
        with undisturbed(model):
            drawing = find_drawing(model, args, kwargs)
            patterns.check(sorted(drawing.counts))
            self._training = frozenset(n for n in drawing.training if n not in drawing.counts or patterns.keep(n))
            set_training(model, self._training)
            expected = {name: n for name, n in count_draws(model, args, kwargs).items() if patterns.keep(name)}
            self._outputs = self._compared_outputs(args, kwargs)
            set_training(model, self._training)
            self.program = capture(model, args, kwargs, self._free)
            rewriting = Rewriting(self.program, self._batch_symbol(), patterns.keep)
            with capturing():
                rewriting.run()
        self.sites, self.bypass = rewriting.sites, rewriting.bypass
        self._check_count(expected)
        self.contract = self._contract(kind)

    # Arguments

    def _check_model(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise UsageError(f"the model is a {type(self.model).__name__}; expected a torch.nn.Module.")
        tensors = [*self.model.parameters(), *self.model.buffers()]
        if any(tensor.device.type != "cpu" for tensor in tensors):
            raise UsageError("the model is not on the CPU. Move it there: model.cpu()")
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if size > LARGEST_BYTES:
            raise UsageError(f"the model has {size / 1e9:.1f} GB of weights; one ONNX file takes at most 2.1 GB.")

    def _bind(self, example_inputs: Any) -> None:
        """Find the names of the inputs, in the order of the parameters of the model."""
        if isinstance(example_inputs, Mapping):
            positional, keywords = (), dict(example_inputs)
        else:
            if not isinstance(example_inputs, torch.Tensor | Sequence):
                raise UsageError(
                    f"example_inputs is {type(example_inputs).__name__}; expected a tensor, a tuple of tensors, or a "
                    "mapping from names to tensors."
                )
            positional = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
            keywords = {}
        try:
            signature = inspect.signature(self.model.forward)
            self._bound = signature.bind(*positional, **keywords)
        except TypeError as error:
            raise UsageError(f"the example inputs do not fit {type(self.model).__name__}.forward: {error}.") from error
        self._given: dict[str, torch.Tensor] = {}
        for name, value in self._bound.arguments.items():
            how = signature.parameters[name].kind
            if how is inspect.Parameter.VAR_POSITIONAL:
                self._given.update({f"{name}_{index}": item for index, item in enumerate(value)})
            elif how is inspect.Parameter.VAR_KEYWORD:
                self._given.update(value)
            else:
                self._given[name] = value
        for name, value in self._given.items():
            if not isinstance(value, torch.Tensor) or value.device.type != "cpu":
                raise UsageError(f"example input {name} is {type(value).__name__}; expected a tensor on the CPU.")
            if str(value.dtype).removeprefix("torch.") not in DTYPES:
                raise UsageError(f"example input {name} is {value.dtype}; expected one of {', '.join(DTYPES)}.")
        self._given = {name: value.detach() for name, value in self._given.items()}
        if not self._given:
            raise UsageError("there are no example inputs. Give the tensors of model(*example_inputs).")

    def _arguments(self, values: Mapping[str, torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the model for these inputs."""
        rest = iter(values.values())
        args = tuple(next(rest) for _ in self._bound.args)
        return args, {name: next(rest) for name in self._bound.kwargs}

    def _free_axes(self, dynamic: Mapping[str, Sequence[int]]) -> list[tuple[int, ...]]:
        if unknown := set(dynamic) - set(self._given):
            raise UsageError(f"dynamic names {shown(', '.join(unknown))}; the inputs are {', '.join(self._given)}.")
        free = []
        for name, value in self._given.items():
            given = items("dynamic", dynamic.get(name, (0,) if value.ndim else ()), 'axes such as {"x": (0, 2, 3)}')
            axes = tuple(whole_number("dynamic", axis, "axes from 0 up", 0) for axis in given)
            if not all(0 <= axis < value.ndim for axis in axes):
                raise UsageError(f"dynamic names axes {list(axes)} of {name}, which has {value.ndim} axes.")
            if fixed := [axis for axis in axes if axis and value.shape[axis] < 2]:
                raise UsageError(
                    f"axis {fixed[0]} of example input {name} has {value.shape[fixed[0]]} elements; an axis that is "
                    "free needs 2 or more in the example."
                )
            free.append(axes)
        return free

    def _with_few_samples(self) -> dict[str, torch.Tensor]:
        pairs = list(zip(self._given.items(), self._free, strict=True))
        lengths = {name: value.shape[0] for (name, value), axes in pairs if 0 in axes}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise UsageError(f"axis 0 of the example inputs is one batch of samples, but {told}.")
        others = {value.shape[axis] for (_, value), axes in pairs for axis in axes if axis}
        samples = next(count for count in _SAMPLES if count not in others) if len(others) < len(_SAMPLES) else 11
        return self.resized(samples)

    def resized(self, samples: int, times: int = 1) -> dict[str, torch.Tensor]:
        """The example inputs with another number of samples, and free axes of `times` their length."""
        values = {}
        for (name, value), axes in zip(self._given.items(), self._free, strict=True):
            for axis in axes:
                count = samples if axis == 0 else times * value.shape[axis]
                copies = -(-count // value.shape[axis])
                value = torch.cat([value] * copies, dim=axis).narrow(axis, 0, count)
            values[name] = value.contiguous()
        return values

    def evaluated(self, values: Mapping[str, torch.Tensor]) -> tuple[list[torch.Tensor], bool]:
        """What the model computes in evaluation mode: its tensors; and whether it draws no noise even then.

        Dropout that stays on in evaluation mode keeps all.
        """
        args, kwargs = self._arguments(values)
        neutral = Neutral()
        math = torch.nn.attention.SDPBackend.MATH
        with undisturbed(self.model), torch.nn.attention.sdpa_kernel(math), neutral:
            self.model.eval()
            return list(named_tensors(self.model(*args, **kwargs)).values()), neutral.is_defined

    def _compared_outputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The outputs with draws, by name; they have to be those of evaluation mode."""
        try:
            live = named_tensors(self.model(*args, **kwargs))
        except torch._dynamo.exc.TorchDynamoException as error:
            # `torch.cond` compiles its branches when it runs, which fails under some dispatch modes.
            raise UsageError(
                "the model draws in a branch of torch.cond, which cannot become an input. Set the rate of these draws "
                "to 0, or draw with torch.rand."
            ) from error
        self.model.eval()
        plain = named_tensors(self.model(*args, **kwargs))
        if [(n, v.shape) for n, v in live.items()] != [(n, v.shape) for n, v in plain.items()]:
            raise UsageError(
                f"the model returns {', '.join(live) or 'no tensor'} with its draws, and "
                f"{', '.join(plain) or 'no tensor'} in evaluation mode, or other shapes. "
                "A module that draws must return the same in both."
            )
        if not live:
            raise UsageError("the model returns no tensor.")
        return live

    # The program

    def _placeholders(self) -> list[torch.fx.Node]:
        """The inputs that are data, in their order."""
        names = set(self.program.graph_signature.user_inputs)
        nodes = [node for node in self.program.graph.nodes if node.op == "placeholder" and node.name in names]
        return nodes[: len(self._given)]

    def _batch_symbol(self) -> Any:
        for node, axes in zip(self._placeholders(), self._free, strict=True):
            if 0 in axes:
                return node.meta["val"].shape[0].node.expr
        return None

    def _check_count(self, expected: Mapping[str, int]) -> None:
        found = Counter(site.path for site in self.sites)
        if found.total() == sum(expected.values()):
            return
        names = sorted(name for name in {*found, *expected} if found[name] != expected.get(name, 0))
        told = ", ".join(f"{n or 'the model itself'} ({found[n]} of {expected.get(n, 0)})" for n in names[:3])
        raise UsageError(
            f"the captured program does not have all draws that PyTorch makes: {shown(told)}. "
            "Leave these modules out (exclude), or use nn.Dropout in them."
        )

    # The contract

    def _contract(self, kind: Kind | Sequence[Kind]) -> LiveContract:
        names: dict[Any, str] = {}
        axes: dict[str, tuple[str, int]] = {}
        inputs = []
        for node, free in zip(self._placeholders(), self._free, strict=True):
            value = node.meta["val"]
            dims: list[Size] = []
            for axis, size in enumerate(value.shape):
                if isinstance(size, int):
                    if axis in free:
                        raise UsageError(
                            f"the model fixes axis {axis} of {node.name} at {size}. Leave it out of dynamic."
                        )
                    dims.append(size)
                    continue
                symbol = size.node.expr
                if not isinstance(symbol, sympy.Symbol):
                    raise UsageError(
                        f"the model ties axis {axis} of {node.name} to another axis ({symbol}). "
                        "Leave it out of dynamic."
                    )
                if symbol not in names:
                    names[symbol] = "batch" if axis == 0 else f"{node.name}_{axis}"
                    axes[names[symbol]] = (node.name, axis)
                dims.append(names[symbol])
            inputs.append(LiveInput(node.name, str(value.dtype).removeprefix("torch."), tuple(dims)))
        self._symbols = names
        batch = names.get(self._batch_symbol())
        kinds = self._kinds(kind)
        outputs = tuple(
            LiveOutput(name, kinds[index], self._counts_samples(index)) for index, name in enumerate(self._outputs)
        )
        masks = tuple(self._mask(site) for site in self.sites)
        return LiveContract(tuple(inputs), outputs, masks, axes, batch, separable=False)

    def _counts_samples(self, index: int) -> bool:
        value = self._output_values()[index]
        batch = self._batch_symbol()
        return value.ndim > 0 and not isinstance(value.shape[0], int) and value.shape[0].node.expr == batch

    def _output_values(self) -> list[Any]:
        output = next(node for node in self.program.graph.nodes if node.op == "output")
        names = set(self.program.graph_signature.user_outputs)
        values = [node.meta["val"] for node in output.args[0] if isinstance(node, torch.fx.Node) and node.name in names]
        return [value for value in values if isinstance(value, torch.Tensor)]

    def _kinds(self, kind: Kind | Sequence[Kind]) -> list[Kind]:
        kinds = kinds_of(kind, list(self._outputs))
        for one, (name, value) in zip(kinds, self._outputs.items(), strict=True):
            if one in OF_CLASSES and (value.ndim < 2 or not value.dtype.is_floating_point):
                raise UsageError(
                    f"output {name} is {value.dtype} with {value.ndim} axes, so it has no {one}: they are floats with "
                    'the classes on axis 1. Give the kind of each output, such as ("logits", "value").'
                )
        return kinds

    def _mask(self, site: Site) -> LiveMask:
        return LiveMask(
            name=site.name,
            site=site.path,
            operator=site.operator,
            draw=site.draw,
            keep_count=site.keep_count,
            dims=tuple(size if isinstance(size, int) else self._text(size.node.expr, site) for size in site.shape),
            batched=site.batched,
        )

    def _text(self, expression: Any, site: Site) -> str:
        """A size as an expression that `sizes.evaluate` reads."""
        text = _text_of(expression, self._symbols)
        hint = {symbol: int(self._hint(symbol)) for symbol in self._symbols}
        wanted = expression.subs(hint)
        with_names = {name: hint[symbol] for symbol, name in self._symbols.items()}
        if text is None or evaluate(text, with_names) != int(wanted):
            raise UsageError(
                f"{site.path or 'the model itself'}: the size {expression} of a draw is no expression of the sizes of "
                "the inputs. Free fewer axes (dynamic), or leave the module out (exclude)."
            )
        return text

    def _hint(self, symbol: Any) -> int:
        name, axis = next(
            (node.name, axis)
            for node in self._placeholders()
            for axis, size in enumerate(node.meta["val"].shape)
            if not isinstance(size, int) and size.node.expr == symbol
        )
        return self.values_by_placeholder()[name].shape[axis]

    def values_by_placeholder(self, values: Mapping[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
        """Inputs by the names that they have in the program."""
        tensors = (self.values if values is None else values).values()
        return {node.name: value for node, value in zip(self._placeholders(), tensors, strict=True)}

    # ONNX

    def to_onnx(self) -> onnx.ModelProto:
        """The ONNX model of the program, without metadata.

        Raises:
            UsageError: PyTorch cannot convert the program.
        """
        from onnx import inliner

        try:
            with capturing():
                converted = torch.onnx.export(self.program, dynamo=True, verbose=False)
            proto: onnx.ModelProto = converted.model_proto  # type: ignore[union-attr]
        except Exception as error:
            # The exporter raises errors of many classes that share no base.
            cause = error.__cause__ or error
            raise UsageError(f"PyTorch cannot convert the model to ONNX ({shown(first_line(cause))}).") from error
        if proto.functions:
            proto = inliner.inline_local_functions(proto)
        self._tidy(proto)
        return proto

    def _tidy(self, proto: onnx.ModelProto) -> None:
        """Names of outputs and free axes as in the contract; no shapes inside, as these are of names not kept."""
        graph = proto.graph
        if left := {node.op_type for node in graph.node} & _RANDOM:
            raise UsageError(f"PyTorch's conversion to ONNX adds draws of its own ({', '.join(sorted(left))}).")
        dims = {item.name: item.dims for item in self.contract.inputs}
        dims |= {mask.name: mask.dims for mask in self.contract.masks}
        found = [value.name for value in graph.input]
        if lost := [name for name in dims if name not in found]:
            raise UsageError(
                f"no output depends on {shown(', '.join(lost[:3]))}. Leave these inputs or modules out (exclude)."
            )
        for value in graph.input:
            _set_dims(value, dims[value.name])
        for value in graph.value_info:
            value.type.tensor_type.ClearField("shape")
        del graph.metadata_props[:]
        for node in graph.node:
            del node.metadata_props[:]
        self._name_outputs(graph)

    def _name_outputs(self, graph: onnx.GraphProto) -> None:
        import onnx

        used = {name for node in graph.node for name in (*node.input, *node.output)} | {v.name for v in graph.input}
        shapes = [value.shape for value in self._output_values()]
        for output, wanted, shape in zip(graph.output, self.contract.outputs, shapes, strict=True):
            old = output.name
            if old != wanted.name:
                if wanted.name in used:
                    raise UsageError(f"an output and an inner value share the name {wanted.name}. Rename the output.")
                graph.node.append(onnx.helper.make_node("Identity", [old], [wanted.name]))
                output.name = wanted.name
            texts = [s if isinstance(s, int) else _text_of(s.node.expr, self._symbols) or "" for s in shape]
            _set_dims(output, texts)


def _set_dims(value: onnx.ValueInfoProto, dims: Sequence[Size]) -> None:
    value.type.tensor_type.ClearField("shape")
    for size in dims:
        dim = value.type.tensor_type.shape.dim.add()
        if isinstance(size, int):
            dim.dim_value = size
        elif size:
            dim.dim_param = size


_BINARY = {"FloorDiv": "//", "CleanDiv": "//", "Mod": "%", "PythonMod": "%"}


def _text_of(expression: Any, names: Mapping[Any, str]) -> str | None:
    """The text of an expression of PyTorch's symbols; None if it has something else in it."""
    if expression in names:
        return names[expression]
    if isinstance(expression, sympy.Integer):
        return str(int(expression)) if expression >= 0 else f"({int(expression)})"
    parts = [_text_of(part, names) for part in expression.args]
    kind = type(expression).__name__
    if isinstance(expression, sympy.Pow) and isinstance(expression.exp, sympy.Integer) and expression.exp > 0:
        parts = parts[:1] * int(expression.exp)
        kind = "Mul"
    if not parts or any(part is None for part in parts):
        return None
    texts = [str(part) for part in parts]
    if kind in ("Add", "Mul"):
        return "(" + {"Add": " + ", "Mul": "*"}[kind].join(texts) + ")"
    if kind in _BINARY and len(texts) == 2:
        return f"({texts[0]} {_BINARY[kind]} {texts[1]})"
    return f"{kind.lower()}({', '.join(texts)})" if kind in ("Max", "Min") else None
