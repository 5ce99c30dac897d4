"""Finds the modules of a network that draw random numbers, by running it once and watching every operator.

Only these modules are put into training mode. All others stay as they are when the network is used: also those that
behave differently in training without drawing anything, such as batch normalisation or auxiliary classifiers.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from self2self.errors import UsageError, first_line, shown

_PROBABILITY_IS_SECOND = {torch.ops.aten.bernoulli_.float, torch.ops.aten.bernoulli.p}
_RRELU_TRAINING = 4
"""Position of ``training`` among the arguments of RReLU."""


class ModuleStack:
    """The names of the modules that are running, the innermost last; the network itself is ``""``.

    A module that ends with an exception stays, so `innermost` says where it was raised.
    """

    def __init__(self) -> None:
        self.names: list[str] = []

    @property
    def innermost(self) -> str:
        """Name of the module that is running, for people."""
        return (self.names[-1] if self.names else "") or "the model itself"

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Follow the modules of `model` while the block runs."""
        hooks = []
        self.names = []
        for name, module in model.named_modules():
            hooks.append(module.register_forward_pre_hook(lambda *_, name=name: self.names.append(name)))
            hooks.append(module.register_forward_hook(lambda *_: self._leave()))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _leave(self) -> None:
        self.left()
        self.names.pop()

    def left(self) -> None:
        """Called when a module has ended, while it is still the innermost."""


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the draws of each module; sees every operator that PyTorch runs."""

    supports_higher_order_operators = True

    def __init__(self, stack: _WatchedStack) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stack = stack

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_operator = isinstance(func, torch._ops.OpOverload)
        if func is torch.ops.aten._pack_padded_sequence.default:
            raise UsageError(
                f"{self.stack.innermost} packs sequences, and their lengths would become fixed. Leave them padded."
            )
        if is_operator and (torch.Tag.nondeterministic_seeded not in func.tags or _is_certain(func, args)):
            return func(*args, **kwargs)
        before = torch.get_rng_state()
        result = func(*args, **kwargs)
        drew = kwargs.get("generator") is not None or not torch.equal(before, torch.get_rng_state())
        if drew or _may_draw(func, args):
            (self.stack.counts if is_operator else self.stack.foreign)[self.stack.names[-1]] += 1
        self.stack.torch_state = torch.get_rng_state()
        return result


def _is_certain(func: Any, args: Sequence[Any]) -> bool:
    """Whether what is drawn has a probability of 0 or 1."""
    return func in _PROBABILITY_IS_SECOND and len(args) > 1 and args[1] in (0, 1)


def _may_draw(func: Any, args: Sequence[Any]) -> bool:
    """Whether the operator draws for some inputs, though not for these: RReLU draws for negative values alone."""
    return func is torch.ops.aten.rrelu_with_noise.default and len(args) > _RRELU_TRAINING and args[_RRELU_TRAINING]


class _WatchedStack(ModuleStack):
    """Also finds draws that PyTorch's operators do not make: of Python, NumPy, and of hidden code."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.foreign: Counter[str] = Counter()
        self.torch_state = torch.get_rng_state()
        self._others = self._state()

    @staticmethod
    def _state() -> tuple[Any, ...]:
        kind, words, *rest = np.random.get_state()  # noqa: NPY002 - others' draws are to be found
        return (random.getstate(), kind, bytes(np.asarray(words)), *rest)

    def left(self) -> None:
        state = self._state()
        if state != self._others:
            self._others = state
            self.foreign[self.names[-1]] += 1
        if not torch.equal(self.torch_state, torch.get_rng_state()):
            self.torch_state = torch.get_rng_state()
            self.foreign[self.names[-1]] += 1


class Neutral(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Gives every draw of zeros and ones its mean, so that dropout keeps all; some models draw in evaluation mode, too.

    Attributes:
        is_defined: False as soon as something else is drawn, which has no neutral value.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_defined = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bernoulli_.float:
            # PyTorch leaves out arguments that have their default value.
            return args[0].fill_(args[1] if len(args) > 1 else 0.5)
        if not isinstance(func, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        before = torch.get_rng_state()
        result = func(*args, **(kwargs or {}))
        self.is_defined &= torch.equal(before, torch.get_rng_state())
        return result


@dataclass(frozen=True, slots=True)
class Drawing:
    """Which modules draw.

    Attributes:
        counts: number of draws of each module in one run, in training mode.
        training: names of the modules that have to be in training mode for that; all others are not.
    """

    counts: dict[str, int]
    training: frozenset[str]


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Restore the training flags and the buffers of `model`, and all random states, when the block ends."""
    flags = {module: module.training for module in model.modules()}
    buffers = {buffer: buffer.detach().clone() for buffer in model.buffers()}
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    fast = torch.backends.mha.get_fastpath_enabled()
    # The fast path of attention in evaluation mode leaves out the dropout of its parts.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for module, flag in flags.items():
            module.training = flag
        with torch.no_grad():
            for buffer, values in buffers.items():
                buffer.copy_(values)


def set_training(model: nn.Module, names: frozenset[str]) -> None:
    """Put the modules `names` of `model` into training mode, but not what is in them, and all others out of it."""
    for module in model.modules():
        module.training = False
    for name, module in model.named_modules(remove_duplicate=False):
        if name in names:
            module.training = True


def find_drawing(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Drawing:
    """Find the modules of `model` that draw in training mode; call it within `undisturbed`.

    Raises:
        UsageError: nothing draws, the model does not run, or something draws that cannot be made an input.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.training = False
    counts = count_draws(model, args, kwargs)
    if not counts:
        raise UsageError(
            "the model draws no random numbers in training mode, so it has no dropout to keep. "
            "Check that its drop rates are above 0."
        )
    training = frozenset(counts)
    set_training(model, training)
    if (found := count_draws(model, args, kwargs)) != counts:
        # Some modules call others only if they are in training mode themselves.
        missing = {name for name in counts if found.get(name, 0) != counts[name]}
        training |= {parent for name in missing for parent in _parents(name)}
        set_training(model, training)
        if (found := count_draws(model, args, kwargs)) != counts:
            names = sorted(name for name in {*counts, *found} if counts.get(name, 0) != found.get(name, 0))
            raise UsageError(
                f"the draws of {shown(', '.join(name or 'the model itself' for name in names[:3]))} depend on the "
                "training mode of other modules. Let the module that draws decide by its own training flag."
            )
    return Drawing(dict(counts), training)


def _parents(name: str) -> set[str]:
    parts = name.split(".") if name else []
    return {".".join(parts[:length]) for length in range(len(parts))}


def count_draws(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, int]:
    """Number of draws of each module in one run of the model as it is.

    Raises:
        UsageError: the model does not run, or something draws that is no operator of PyTorch.
    """
    stack = _WatchedStack()
    try:
        with stack.on(model), _Watch(stack):
            model(*args, **kwargs)
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:
        # The user's own code may raise anything, also SystemExit.
        raise UsageError(
            f"the model does not run on the example inputs, in {stack.innermost} ({shown(first_line(error))}). "
            "Give inputs that model(*inputs) accepts in training mode, too."
        ) from error
    if stack.foreign:
        names = ", ".join(name or "the model itself" for name in sorted(stack.foreign)[:3])
        raise UsageError(
            f"{shown(names)} draws random numbers outside of PyTorch's operators (random, numpy.random, LayerDrop, "
            "torch.cond), which cannot become inputs. Set the rate of these draws to 0, or draw with torch.rand."
        )
    return dict(stack.counts)
