"""Rewrites a captured program: every random draw becomes an input.

One rule for each random operator says what it computes from a mask or from noise; the formulas are those of PyTorch's
own code, so with equal masks the results are equal. Whatever draws without a rule is refused.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from self2self.errors import UsageError
from self2self.live.contract import Draw, keep_count_of

aten = torch.ops.aten

_ALPHA = 1.7580993408473766
"""Minus the value of SELU far below zero: what alpha dropout puts in place of a dropped activation."""
_FRESH = {"empty", "empty_like", "new_empty", "zeros", "zeros_like", "new_zeros", "ones", "ones_like", "new_ones"}
"""Operators whose result shares no memory with another tensor."""
_FRESH |= {"full", "full_like", "new_full", "empty_strided", "empty_permuted"}


@dataclass(frozen=True, slots=True)
class Site:
    """One draw of the program.

    Attributes:
        name: of the new input.
        path: of the module that draws.
        operator: PyTorch's operator.
        draw: what it is drawn from.
        keep: probability of True; None for noise.
        shape: sizes, some of them symbols.
        batched: whether axis 0 is the batch times a number without symbols of the batch, and no other axis has it.
    """

    name: str
    path: str
    operator: str
    draw: Draw
    keep: float | None
    shape: tuple[int | torch.SymInt, ...]
    batched: bool

    @property
    def keep_count(self) -> int | None:
        """Probability of True in 1/65536."""
        return None if self.keep is None else keep_count_of(self.keep)


@dataclass
class Rewriting:
    """A program while its draws become inputs.

    Attributes:
        program: is changed.
        batch: symbol of the batch; None for none.
        is_wanted: whether the draws of the module of this path become inputs; others are left out.
        sites: the draws so far.
        bypass: from the result of a draw that no value of its mask makes neutral to what it is applied to, by names.
    """

    program: ExportedProgram
    batch: Any
    is_wanted: Callable[[str], bool]
    sites: list[Site] = field(default_factory=list)
    bypass: dict[str, str] = field(default_factory=dict)
    _names: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.graph: Graph = self.program.graph
        placeholders = [node for node in self.graph.nodes if node.op == "placeholder"]
        self._last = placeholders[-1]
        values = (node.meta.get("val") for node in self.graph.nodes)
        self._fake = next((value.fake_mode for value in values if isinstance(value, FakeTensor)), nullcontext())
        self._at = self._last

    # Building blocks of the rules

    def emit(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        """Add a call before the node that is being replaced."""
        node = self.graph.call_function(target, args, kwargs)
        values = pytree.tree_map_only(Node, lambda other: other.meta["val"], (args, kwargs))
        with enable_python_dispatcher(), self._fake, torch.no_grad():
            node.meta["val"] = target(*values[0], **values[1])
        for key in ("nn_module_stack", "stack_trace"):
            if key in self._at.meta:
                node.meta[key] = self._at.meta[key]
        return node

    def mask(self, shape: Sequence[Any], kind: str, keep: float, dtype: torch.dtype) -> Node:
        """A mask of `shape` that is 1 with probability `keep` and 0 otherwise, as `dtype`."""
        if keep <= 0 or keep >= 1:
            return self.emit(aten.full.default, self.sizes(shape), float(keep >= 1), dtype=dtype)
        if keep_count_of(keep) is None:
            return self.emit(aten.to.dtype, self.emit(aten.lt.Scalar, self.noise(shape, kind, "uniform"), keep), dtype)
        return self.emit(aten.to.dtype, self._input(shape, kind, "mask", keep), dtype)

    def noise(self, shape: Sequence[Any], kind: str, draw: Draw, dtype: torch.dtype = torch.float32) -> Node:
        """Noise of `shape`."""
        node = self._input(shape, kind, draw, None)
        return node if dtype == torch.float32 else self.emit(aten.to.dtype, node, dtype)

    def sizes(self, shape: Sequence[Any]) -> list[Any]:
        """Sizes as arguments of an operator; symbols come from the input that has them."""
        return [size if isinstance(size, int) else self._symbol_node(size) for size in shape]

    def size(self, node: Node, axis: int) -> Any:
        """Size of an axis, as an argument of an operator."""
        size = node.meta["val"].shape[axis]
        return size if isinstance(size, int) else self.emit(aten.sym_size.int, node, axis)

    def _symbol_node(self, size: torch.SymInt) -> Node:
        for node in self.graph.nodes:
            value = node.meta.get("val")
            if node is self._at:
                break
            if isinstance(value, torch.Tensor):
                for axis, other in enumerate(value.shape):
                    if isinstance(other, torch.SymInt) and other.node.expr == size.node.expr:
                        return self.emit(aten.sym_size.int, node, axis)
        raise UsageError(f"{self.path}: draws a tensor whose size {size} no other tensor has. Leave it out (exclude).")

    @property
    def path(self) -> str:
        """Path of the module whose node is being replaced."""
        stack = list((self._at.meta.get("nn_module_stack") or {}).values())
        return str(stack[-1][0]) if stack else ""

    def _input(self, shape: Sequence[Any], kind: str, draw: Draw, keep: float | None) -> Node:
        """A new input of the program, and the axes of `shape`; its own first axis is that of the batch."""
        axes = [axis for axis, size in enumerate(shape) if self._has_batch(size)]
        order = list(range(len(shape)))
        if axes and axes[0] != 0:
            order.insert(0, order.pop(axes[0]))
        sizes = tuple(shape[axis] for axis in order)
        batched = len(axes) == 1 and self._counts_samples(sizes[0])
        base = ("mask_" if draw == "mask" else "noise_") + (self.path.replace(".", "_") or "model")
        self._names[base] += 1
        name = base if self._names[base] == 1 else f"{base}_{self._names[base]}"
        with self._fake, torch.no_grad():
            value = torch.empty(sizes, dtype=torch.bool if draw == "mask" else torch.float32)
        with self.graph.inserting_after(self._last):
            node = self.graph.placeholder(name)
        node.meta["val"] = value
        self._last = node
        self.sites.append(Site(node.name, self.path, kind, draw, keep, sizes, batched))
        back = [order.index(axis) for axis in range(len(order))]
        return node if back == order == list(range(len(order))) else self.emit(aten.permute.default, node, back)

    def _has_batch(self, size: Any) -> bool:
        return self.batch is not None and isinstance(size, torch.SymInt) and self.batch in size.node.expr.free_symbols

    def _counts_samples(self, size: Any) -> bool:
        rest = size.node.expr / self.batch
        return self.batch not in rest.free_symbols

    def swap(self, old: Node, new: Node) -> None:
        """Let the users of `old` use `new`, and remove `old`."""
        old.replace_all_uses_with(new)
        self.program.graph_signature.replace_all_uses(old.name, new.name)
        self.graph.erase_node(old)

    # The walk over the program

    def run(self) -> None:
        """Replace all draws; call it within `program.capturing`.

        Raises:
            UsageError: something draws that has no rule, or cannot be left out.
        """
        for node in list(self.graph.nodes):
            if node.op != "call_function":
                continue
            self._at = node
            if isinstance(node.target, torch._ops.HigherOrderOperator):
                self._check_branches(node)
            elif _may_draw(node.target):
                rule = RULES.get(_name_of(node.target))
                if rule is None:
                    raise UsageError(
                        f"{self.path or 'the model itself'}: draws with {node.target}, for which there is no rule. "
                        "Leave it out (exclude), or draw with torch.rand, torch.randn or torch.bernoulli."
                    )
                with self.graph.inserting_before(node):
                    rule(self, node)
        self.graph.eliminate_dead_code(lambda node: node.op != "call_function" or _is_impure(node))
        self.graph.lint()
        self.program.graph_module.recompile()
        self._declare_inputs()

    def _check_branches(self, node: Node) -> None:
        for argument in pytree.tree_leaves((node.args, node.kwargs)):
            if not isinstance(argument, Node) or argument.op != "get_attr":
                continue
            branch = getattr(self.program.graph_module, str(argument.target), None)
            if isinstance(branch, torch.fx.GraphModule) and any(
                _may_draw(inner.target) for inner in branch.graph.nodes if inner.op == "call_function"
            ):
                raise UsageError(
                    f"{self.path or 'the model itself'}: draws inside {node.target}. Draw before it, and pass what is "
                    "drawn to both branches."
                )

    def _declare_inputs(self) -> None:
        """Make the new inputs keyword arguments of the program."""
        program, names = self.program, [site.name for site in self.sites]
        signature = program.graph_signature
        new = [InputSpec(InputKind.USER_INPUT, TensorArgument(name=name), None) for name in names]
        signature.input_specs = [*signature.input_specs, *new]
        entry = program.module_call_graph[0].signature
        assert entry is not None  # noqa: S101 - the first entry is that of the whole program
        arguments, keywords = _children(entry.in_spec)
        leaves = _children(pytree.tree_structure([0] * len(names)))
        keywords = pytree.TreeSpec(dict, [*keywords.context, *names], [*_children(keywords), *leaves])
        entry.in_spec = pytree.TreeSpec(tuple, None, [arguments, keywords])
        entry.inputs = [*entry.inputs, *(TensorArgument(name=name) for name in names)]
        if entry.forward_arg_names is not None:
            entry.forward_arg_names = [*entry.forward_arg_names, *names]
        positional, given = program.example_inputs
        examples = {site.name: self._example(site) for site in self.sites}
        program._example_inputs = (positional, {**given, **examples})

    @staticmethod
    def _example(site: Site) -> torch.Tensor:
        sizes = [size if isinstance(size, int) else int(size.node.hint) for size in site.shape]
        return torch.ones(sizes, dtype=torch.bool if site.draw == "mask" else torch.float32)


def _children(spec: Any) -> list[Any]:
    """The parts of a structure; earlier versions of PyTorch have no method for them."""
    return list(spec.children() if hasattr(spec, "children") else spec.children_specs)


def _may_draw(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags


def _is_impure(node: Node) -> bool:
    """Whether a call has an effect beside its result, so that it stays where nobody uses the result."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return bool(node.is_impure())
    return bool(target._schema.is_mutable) and bool(node.args) and not _is_fresh(node.args[0])


def _is_fresh(node: Any) -> bool:
    """Whether `node` is a new tensor that nothing else uses."""
    return isinstance(node, Node) and _name_of(node.target) in _FRESH and len(node.users) <= 1


def _is_in_place(node: Node) -> bool:
    return str(getattr(getattr(node.target, "_overloadpacket", None), "__name__", "")).endswith("_")


def _is_view(node: Node) -> bool:
    """Whether the result of a call may share memory with its argument."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(result.alias_info is not None for result in schema.returns)


def _has_views(x: Node, user: Node) -> bool:
    """Whether a node beside `user` shares memory with `x`."""
    base = x.args[0] if _is_view(x) and x.args else None
    shares = isinstance(base, Node) and len(base.users) > 1
    return shares or any(_is_view(other) for other in x.users if other is not user)


def _name_of(target: Any) -> str:
    """Name of an operator without its overload, and without the underscore of one that works in place."""
    name = getattr(getattr(target, "_overloadpacket", None), "__name__", "")
    return str(name).removesuffix("_")


# Rules. Each replaces a node, or returns without a change if it draws nothing.

Rule = Callable[[Rewriting, Node], None]


def _argument(node: Node, name: str, default: Any = None) -> Any:
    """The argument called `name` in the operator's schema."""
    schema: Any = node.target._schema  # type: ignore[union-attr]
    for position, argument in enumerate(schema.arguments):
        if argument.name == name:
            if name in node.kwargs:
                return node.kwargs[name]
            if position < len(node.args):
                return node.args[position]
            return argument.default_value if argument.has_default_value() else default
    return default


def _dropout(at: Rewriting, node: Node) -> None:
    """Dropout, that of whole channels (feature), and alpha dropout of both."""
    x, p = node.args[0], float(_argument(node, "p"))
    name = _name_of(node.target)
    assert isinstance(x, Node)  # noqa: S101 - the first argument of these operators is a tensor
    if not _argument(node, "train") or p == 0 or not at.is_wanted(at.path):
        at.swap(node, x)
        return
    if _is_in_place(node) and _has_views(x, node):
        # What sees the same memory would see the dropout.
        raise UsageError(f"{at.path}: drops out in place a tensor that is used elsewhere. Use inplace=False.")
    shape = x.meta["val"].shape
    if "feature" in name:
        shape = (shape[0], shape[1], *[1] * (len(shape) - 2))
    dtype = x.meta["val"].dtype
    if "alpha" not in name:
        at.swap(
            node, _scaled(at, x, at.mask(shape, name, 1 - p, dtype), p) if p < 1 else at.emit(aten.mul.Scalar, x, 0)
        )
        return
    if p >= 1:
        raise UsageError(f"{at.path}: alpha dropout with a rate of 1 keeps nothing. Give it a rate below 1.")
    noise = at.mask(shape, name, 1 - p, dtype)
    scale = 1 / math.sqrt((_ALPHA * _ALPHA * p + 1) * (1 - p))
    shift = at.emit(aten.mul.Scalar, at.emit(aten.add.Scalar, noise, -1), _ALPHA * scale)
    shift = at.emit(aten.add.Scalar, shift, _ALPHA * scale * p)
    result = at.emit(aten.add.Tensor, at.emit(aten.mul.Tensor, x, at.emit(aten.mul.Scalar, noise, scale)), shift)
    at.bypass[result.name] = x.name
    at.swap(node, result)


def _scaled(at: Rewriting, x: Node, noise: Node, p: float) -> Node:
    return at.emit(aten.mul.Tensor, x, at.emit(aten.div.Scalar, noise, 1 - p))


def _filled(at: Rewriting, node: Node) -> tuple[Any, torch.dtype]:
    """Shape and type of what an operator draws; one that works in place has to fill a new tensor.

    Raises:
        UsageError: the tensor that it fills is used elsewhere, or may not be wanted.
    """
    if not at.is_wanted(at.path):
        raise UsageError(
            f"{at.path or 'the model itself'}: draws with {node.target} even in evaluation mode, so it cannot be left "
            "out. Change the pattern, or the module."
        )
    if _is_in_place(node) and not _is_fresh(node.args[0]):
        raise UsageError(
            f"{at.path or 'the model itself'}: fills a tensor in place with {node.target} that is used elsewhere. "
            "Draw a new tensor, for example with torch.rand_like."
        )
    value = node.meta["val"]
    return value.shape, value.dtype


def _bernoulli(at: Rewriting, node: Node) -> None:
    shape, dtype = _filled(at, node)
    p = _argument(node, "p")
    if p is None:
        p = node.args[0]
    if isinstance(p, Node):
        is_one = at.emit(aten.lt.Tensor, at.noise(shape, "bernoulli", "uniform"), p)
        at.swap(node, at.emit(aten.to.dtype, is_one, dtype))
    else:
        at.swap(node, at.mask(shape, "bernoulli", float(p), dtype))


def _uniform(at: Rewriting, node: Node) -> None:
    shape, dtype = _filled(at, node)
    if floor := _floor_of(node):
        # floor(keep + uniform) is 1 with probability keep, as in many implementations of stochastic depth.
        addition = next(iter(node.users))
        keep: Any = next(argument for argument in addition.args if not isinstance(argument, Node))
        at.swap(floor, at.mask(shape, "rand", float(keep), dtype))
        at.graph.erase_node(addition)
        at.graph.erase_node(node)
        return
    low, high = float(_argument(node, "from", 0.0)), float(_argument(node, "to", 1.0))
    values = at.noise(shape, _name_of(node.target), "uniform", dtype)
    at.swap(node, _affine(at, values, high - low, low))


def _floor_of(node: Node) -> Node | None:
    """The node that rounds down the sum of `node` and a keep probability, if nothing else uses them."""
    users = list(node.users)
    if len(users) != 1 or _name_of(users[0].target) != "add" or len(users[0].users) != 1:
        return None
    others = [argument for argument in users[0].args if argument is not node]
    floor = next(iter(users[0].users))
    plain = len(others) == 1 and isinstance(others[0], int | float) and 0 < others[0] < 1 and not users[0].kwargs
    return floor if plain and _name_of(floor.target) == "floor" else None


def _affine(at: Rewriting, values: Node, scale: float, shift: float) -> Node:
    if scale != 1:
        values = at.emit(aten.mul.Scalar, values, scale)
    return values if shift == 0 else at.emit(aten.add.Scalar, values, shift)


def _normal(at: Rewriting, node: Node) -> None:
    mean, std = _argument(node, "mean", 0.0), _argument(node, "std", 1.0)
    if isinstance(mean, Node) or isinstance(std, Node):
        raise UsageError(f"{at.path}: draws with {node.target}. Draw with torch.randn_like, and scale it.")
    shape, dtype = _filled(at, node)
    at.swap(node, _affine(at, at.noise(shape, _name_of(node.target), "normal", dtype), float(std), float(mean)))


def _exponential(at: Rewriting, node: Node) -> None:
    shape, dtype = _filled(at, node)
    logarithm = at.emit(aten.log.default, at.noise(shape, "exponential", "uniform", dtype))
    at.swap(node, at.emit(aten.mul.Scalar, logarithm, -1 / float(_argument(node, "lambd"))))


def _rrelu(at: Rewriting, node: Node) -> None:
    x = node.args[0]
    assert isinstance(x, Node)  # noqa: S101
    if not _argument(node, "training"):
        return
    if not at.is_wanted(at.path):
        raise UsageError(f"{at.path}: draws in evaluation mode, so it cannot be left out. Use nn.LeakyReLU.")
    low, high = float(_argument(node, "lower")), float(_argument(node, "upper"))
    noise = at.noise(x.meta["val"].shape, "rrelu", "uniform", x.meta["val"].dtype)
    slope = _affine(at, noise, high - low, low)
    at.swap(node, at.emit(aten.where.self, at.emit(aten.le.Scalar, x, 0), at.emit(aten.mul.Tensor, x, slope), x))


def _attention(at: Rewriting, node: Node) -> None:
    """softmax(q k' / sqrt(width) + mask), dropout, times v, as PyTorch computes it without a fused kernel."""
    p = float(_argument(node, "dropout_p"))
    if p == 0:
        return
    if not at.is_wanted(at.path):
        _set_argument(node, "dropout_p", 0.0)
        return
    query, key, value = node.args[:3]
    assert isinstance(query, Node) and isinstance(key, Node) and isinstance(value, Node)  # noqa: S101
    dtype = query.meta["val"].dtype
    scale = _argument(node, "scale")
    root = math.sqrt(1 / math.sqrt(int(query.meta["val"].shape[-1])) if scale is None else float(scale))
    if _argument(node, "enable_gqa"):
        groups = int(query.meta["val"].shape[-3]) // int(key.meta["val"].shape[-3])
        if groups != 1:
            key = at.emit(aten.repeat_interleave.self_int, key, groups, -3)
            value = at.emit(aten.repeat_interleave.self_int, value, groups, -3)
    keys = at.emit(aten.transpose.int, at.emit(aten.mul.Scalar, key, root), -2, -1)
    scores = at.emit(aten.matmul.default, at.emit(aten.mul.Scalar, query, root), keys)
    allowed = _argument(node, "attn_mask")
    if _argument(node, "is_causal"):
        square = at.emit(aten.ones.default, [at.size(query, -2), at.size(key, -2)], dtype=torch.bool)
        allowed = at.emit(aten.tril.default, square)
    if allowed is not None and allowed.meta["val"].dtype == torch.bool:
        hidden = at.emit(aten.full.default, [], float("-inf"), dtype=dtype)
        weights = at.emit(aten.softmax.int, at.emit(aten.where.self, allowed, scores, hidden), -1)
        # A row without any allowed key has no softmax; PyTorch gives it zeros.
        zero = at.emit(aten.full.default, [], 0.0, dtype=dtype)
        weights = at.emit(aten.where.self, allowed, weights, zero)
    else:
        if allowed is not None:
            scores = at.emit(aten.add.Tensor, scores, allowed)
        weights = at.emit(aten.softmax.int, scores, -1)
    noise = at.mask(weights.meta["val"].shape, "scaled_dot_product_attention", 1 - p, dtype)
    at.swap(node, at.emit(aten.matmul.default, _scaled(at, weights, noise, p), value))


def _set_argument(node: Node, name: str, value: Any) -> None:
    schema: Any = node.target._schema  # type: ignore[union-attr]
    position = [argument.name for argument in schema.arguments].index(name)
    if position < len(node.args):
        node.args = (*node.args[:position], value, *node.args[position + 1 :])
    else:
        node.kwargs = {**node.kwargs, name: value}


def _recurrent(at: Rewriting, node: Node) -> None:
    """LSTM, GRU and RNN of several layers: one call for each layer, and dropout between them."""
    name = _name_of(node.target)
    if not _argument(node, "train") or not _argument(node, "dropout") or _argument(node, "num_layers") < 2:
        return
    if not at.is_wanted(at.path):
        _set_argument(node, "dropout", 0.0)
        return
    arguments: Any = node.args
    x, hidden, weights, has_biases, layers, p, _, bidirectional, batch_first = arguments
    directions = 2 if bidirectional else 1
    each = len(weights) // layers
    states: list[Any] = list(hidden) if name == "lstm" else [hidden]
    finals: list[list[Node]] = [[] for _ in states]
    for layer in range(layers):
        parts = [at.emit(aten.slice.Tensor, s, 0, layer * directions, (layer + 1) * directions) for s in states]
        first = parts if name == "lstm" else parts[0]
        of_layer = list(weights[layer * each : (layer + 1) * each])
        one = at.emit(node.target, x, first, of_layer, has_biases, 1, 0.0, False, bidirectional, batch_first)
        x = at.emit(operator.getitem, one, 0)
        for index, final in enumerate(finals):
            final.append(at.emit(operator.getitem, one, 1 + index))
        if layer < layers - 1:
            dtype = x.meta["val"].dtype
            x = _scaled(at, x, at.mask(x.meta["val"].shape, name, 1 - p, dtype), p)
    results = [x, *(at.emit(aten.cat.default, final, 0) for final in finals)]
    for user in list(node.users):
        index_of_result: Any = user.args[1]
        at.swap(user, results[index_of_result])
    at.graph.erase_node(node)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), _dropout),
    "bernoulli": _bernoulli,
    **dict.fromkeys(("rand", "rand_like", "uniform"), _uniform),
    **dict.fromkeys(("randn", "randn_like", "normal"), _normal),
    "exponential": _exponential,
    "rrelu": _rrelu,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
}
"""From PyTorch's operators to the rules that replace them."""
