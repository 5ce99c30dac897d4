"""Writes a PyTorch model as an ONNX file whose random draws are inputs, and checks that nothing was lost.

What is checked before the file is written:

- the program has as many draws as PyTorch makes when it runs the model;
- with its masks at their keep probabilities, the program computes what ``model.eval()`` computes;
- the file computes what the program computes, with random masks and at other sizes of batch and free axes;
- each mask, and each noise, changes an output, and the rows of a sample change that sample alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from self2self.errors import EngineUnavailableError
from self2self.live.contract import Kind, LiveContract
from self2self.live.patterns import Patterns
from self2self.machine.files import atomic_write
from self2self.runtime.engines.registry import is_installed

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class LiveExport:
    """What was exported.

    Attributes:
        path: of the file; None if it was only to be listed what draws.
        contract: all inputs, outputs and draws.
        onnx_difference: largest difference between the file and the original with equal masks, relative to the output;
            None if there was nothing to compare with.
        neutral_difference: largest difference between neutral masks and ``model.eval()``, relative to the output; None
            where the model draws noise, which has no neutral value.
    """

    path: Path | None
    contract: LiveContract
    onnx_difference: float | None = None
    neutral_difference: float | None = None


def export_live(
    model: torch.nn.Module,
    example_inputs: Any,
    path: str | os.PathLike[str] | None,
    *,
    dynamic: Mapping[str, Sequence[int]] | None = None,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    kind: Kind | Sequence[Kind] = "value",
) -> LiveExport:
    """Write a model as an ONNX file with live dropout: every random draw becomes an input.

    Dropout of all kinds, stochastic depth, dropout inside attention and between recurrent layers become boolean masks;
    uniform, normal and exponential noise becomes float inputs. The model is on the CPU, and is not changed.

    Args:
        model: the network. Modules that draw behave as in training mode, all others as in evaluation mode.
        example_inputs: a tensor, a tuple of tensors for ``model(*inputs)``, or a mapping for ``model(**inputs)``.
        path: of the file; an existing file is replaced. None lists what draws, and writes nothing.
        dynamic: axes of an input that may have another length than in the example, by the name of the input; ``{"x":
            (0, 2, 3)}`` frees the height and the width of images. An input that is not named has axis 0 free, which is
            the batch of all inputs.
        include: patterns of the paths of modules whose draws stay, such as ``"head.*"``; None for all.
        exclude: patterns of the paths of modules whose draws do not stay; they behave as in evaluation mode.
        kind: what the outputs are: ``"logits"``, ``"probabilities"`` (classes on axis 1), ``"image"`` (0 is black and 1
            white) or ``"value"`` (in any unit); one for all, or one for each.

    Raises:
        UsageError: the model draws nothing, cannot be captured, or draws in a way that cannot become an input; an
            argument is wrong. The message names the module, and what to do.
        VerificationError: the file would not compute what the model computes.
        EngineUnavailableError: PyTorch or onnxscript is missing.
        ResourceError, OutputError: the file cannot be written.
    """
    done, data = live_file(model, example_inputs, path, dynamic=dynamic, include=include, exclude=exclude, kind=kind)
    if path is not None:
        atomic_write(path, data, "choose another place")
    return done


def live_file(
    model: torch.nn.Module,
    example_inputs: Any,
    path: str | os.PathLike[str] | None,
    *,
    dynamic: Mapping[str, Sequence[int]] | None = None,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    kind: Kind | Sequence[Kind] = "value",
) -> tuple[LiveExport, bytes]:
    """What `export_live` writes, and the bytes of the file, which is not written; no bytes without a path.

    Args and errors are those of `export_live`.
    """
    for name in ("torch", "onnxscript"):
        if not is_installed(name):
            raise EngineUnavailableError(f"exporting a model needs {name}. Install it: pip install {name}")
    from self2self.live.capture import Capture

    capture = Capture(model, example_inputs, dynamic or {}, Patterns.of(include, exclude), kind)
    if path is None:
        return LiveExport(None, capture.contract), b""
    import onnx

    from self2self.live.verify import verify

    proto = capture.to_onnx()
    contract, onnx_difference, neutral_difference = verify(capture, proto, str(path))
    onnx.helper.set_model_props(proto, contract.to_metadata())
    done = LiveExport(Path(path), contract, onnx_difference, neutral_difference)
    return done, proto.SerializeToString(deterministic=True)


def export_live_onnx(
    file: str | os.PathLike[str],
    path: str | os.PathLike[str] | None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fixed: bool = False,
    all_dropout: bool = False,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    kind: Kind | Sequence[Kind] = "value",
) -> LiveExport:
    """Write an ONNX file of another program with live dropout: its nodes that draw random numbers become inputs.

    These are `Dropout` nodes that are switched on, `Bernoulli`, and uniform and normal noise. Batch normalisation is in
    evaluation mode. PyTorch is not needed.

    Args:
        file: the ONNX file. It is data: no code runs, and no other file is opened.
        path: of the new file; an existing file is replaced. None lists what draws, and writes nothing.
        shapes: example shapes of inputs, by their names. They are needed for free axes at which the network does not
            run with the lengths that are tried, and for inputs whose shape the file does not tell.
        fixed: whether all axes but the batch keep the lengths of the example.
        all_dropout: whether `Dropout` nodes that are switched off drop, too.
        include: patterns of the names of nodes whose draws stay; None for all.
        exclude: patterns of the names of `Dropout` nodes that do not drop.
        kind: as in `export_live`.

    Raises:
        InputError: the file is missing or cannot be read.
        FileFormatError: it is no ONNX model, refers to other files, or has operators that ONNX does not define.
        UsageError: nothing draws, a draw cannot become an input, or an argument is wrong.
        VerificationError: the new file would not compute what the original computes.
        ResourceError, OutputError: the new file cannot be written.
    """
    done, data = live_onnx_file(
        file, path, shapes=shapes, fixed=fixed, all_dropout=all_dropout, include=include, exclude=exclude, kind=kind
    )
    if path is not None:
        atomic_write(path, data, "choose another place")
    return done


def live_onnx_file(
    file: str | os.PathLike[str],
    path: str | os.PathLike[str] | None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fixed: bool = False,
    all_dropout: bool = False,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    kind: Kind | Sequence[Kind] = "value",
) -> tuple[LiveExport, bytes]:
    """What `export_live_onnx` writes, and the bytes of the file, which is not written; no bytes without a path.

    Args and errors are those of `export_live_onnx`.
    """
    import onnx

    from self2self.live.foreign.convert import convert

    done = convert(
        Path(file),
        shapes=shapes,
        fixed=fixed,
        all_dropout=all_dropout,
        patterns=Patterns.of(include, exclude),
        kind=kind,
    )
    if path is None:
        return LiveExport(None, done.contract), b""
    onnx.helper.set_model_props(done.proto, done.contract.to_metadata())
    exported = LiveExport(Path(path), done.contract, done.difference)
    return exported, done.proto.SerializeToString(deterministic=True)
