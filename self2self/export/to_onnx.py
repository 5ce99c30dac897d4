"""One trace of the network becomes one ONNX file that describes itself.

The masks are ordinary inputs, so the graph holds no random and no dropout node, which engines
treat as identity. Nothing in the graph depends on the size of the image: convolutions pad by
constants and the upsampling scales by a constant factor. It is therefore traced at one small
size, which takes a third of the time of tracing with symbolic sizes and gives the same nodes; the
names of the free axes are written into the inputs afterwards. `verify` then runs the file at
another size and batch than the traced ones.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from self2self.contract import IMAGE, INPUT_MASK, PREDICTION, SIZE_MULTIPLE, Contract, mask_specs
from self2self.errors import UsageError
from self2self.files import atomic_write

if TYPE_CHECKING:
    import onnx
    import torch

    from self2self.train.network import Self2SelfNet

OPSET_VERSION = 18
"""The first with `Split` into a number of parts; ONNX Runtime 1.14 and TensorRT 8.6 read it."""
IR_VERSION = 8
"""The file format that came with opset 18; engines refuse a newer one than they know."""

BF16_OPSET_VERSION = 22
"""The first in which a convolution takes bfloat16."""
BF16_IR_VERSION = 10

BATCH_AXIS = "N"
WRAPPED = "network"
"""What the exporter puts before the names of weights where the network is wrapped."""
_TRACED_AXES = {"H": 2 * SIZE_MULTIPLE, "W": 3 * SIZE_MULTIPLE}
_TRACED_PASSES = 2
_CHATTY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


def to_onnx(
    network: Self2SelfNet, contract: Contract, path: str | os.PathLike[str], *, size: tuple[int, int] | None = None
) -> None:
    """Write `network` as one `.onnx` file, or leave `path` as it was.

    Nothing is compared with PyTorch here; `export_model` does that too. An existing file is
    replaced.

    Args:
        network: on any device and in any memory format; not changed.
        contract: what the file says about itself; it must describe `network`.
        path: of the file; there is no second file for the weights.
        size: fixed (height, width); by default both are free.

    Raises:
        UsageError: `size` is not one that the network accepts.
        ResourceError, OutputError: the file cannot be written.
    """
    atomic_write(path, serialise(build_model(network, contract, size)))


def build_model(network: Self2SelfNet, contract: Contract, size: tuple[int, int] | None = None) -> onnx.ModelProto:
    """The checked ONNX model of `network` in memory; arguments and errors are those of `to_onnx`.

    Initialisers that are weights carry the names of the network's ``state_dict``. They, and all
    that is computed, have the type of `contract.precision`; inputs and the prediction keep theirs.
    """
    import onnx

    _check_agreement(network, contract)
    if size is not None:
        _check_size(size, contract)
    model = _trace(network, contract)
    model.ir_version = IR_VERSION
    if contract.precision == "bf16":
        # Nothing that these operators do has changed since 18, but for the types that they take.
        model.ir_version, model.opset_import[0].version = BF16_IR_VERSION, BF16_OPSET_VERSION
    _strip_notes(model)
    _write_weights(model.graph, network, dtype_of(contract.precision))
    _write_axes(model.graph, contract, size)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, contract.to_metadata())
    onnx.checker.check_model(model, full_check=True)
    return model


def serialise(model: onnx.ModelProto) -> bytes:
    """The bytes of the file; equal models give equal bytes, so that engine caches can be keyed by them."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def host_copy(network: Self2SelfNet) -> Self2SelfNet:
    """A float32 copy on the CPU in the plain memory format, in evaluation mode."""
    from self2self.train.network import Self2SelfNet

    twin = Self2SelfNet(network.channels, network.encoder_width, network.decoder_widths, network.decoder_keep)
    twin.load_state_dict(network.state_dict())
    twin.requires_grad_(False)
    twin.eval()
    return twin


def _trace(network: Self2SelfNet, contract: Contract) -> onnx.ModelProto:
    import torch

    twin = host_copy(network)
    dtype = dtype_of(contract.precision)
    # The exporter merges weights that are equal, such as biases that are still zero, and drops
    # the names of all but one. These are all different; the real ones are written afterwards.
    source = torch.Generator().manual_seed(0)
    for weight in twin.parameters():
        weight.normal_(generator=source)
    height, width = _TRACED_AXES.values()
    inputs = [torch.zeros(1, contract.channels, height, width)]
    inputs += [torch.ones(_TRACED_PASSES, *spec.shape(_TRACED_AXES), dtype=torch.bool) for spec in contract.masks]
    with _silence():
        program: Any = torch.onnx.export(
            twin if dtype == torch.float32 else in_precision(twin, dtype),
            tuple(inputs),
            dynamo=True,
            opset_version=OPSET_VERSION,
            input_names=contract.input_names(),
            output_names=[PREDICTION],
            external_data=False,
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto
    _rename(model.graph, {f"{WRAPPED}.{name}": name for name in twin.state_dict()})
    return model


def dtype_of(precision: str) -> torch.dtype:
    """The type of PyTorch that is called ``"fp32"``, ``"fp16"`` or ``"bf16"``."""
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def in_precision(twin: Self2SelfNet, dtype: torch.dtype) -> torch.nn.Module:
    """A module that computes in `dtype` and takes and gives float32; `twin` is changed to `dtype`."""
    import torch

    class InPrecision(torch.nn.Module):
        """Casts at the border, so that the contract of the graph is that of the float32 one."""

        def __init__(self) -> None:
            super().__init__()
            self.add_module(WRAPPED, twin.to(dtype))

        def forward(self, image: torch.Tensor, *masks: torch.Tensor) -> torch.Tensor:
            """Arguments and result of the network."""
            prediction: torch.Tensor = self.get_submodule(WRAPPED)(image.to(dtype), *masks)
            return prediction.float()

    return InPrecision().eval()


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for entry in graph.initializer:
        entry.name = names.get(entry.name, entry.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's warnings, which are about its own inside, from the user."""
    levels = {name: logging.getLogger(name).level for name in _CHATTY_LOGGERS}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _strip_notes(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes for its developers: source paths, stack traces, inner shapes."""
    graph = model.graph
    for entry in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        entry.ClearField("doc_string")
        entry.ClearField("metadata_props")
    # These are the shapes of the traced size; engines infer the right ones from the inputs.
    graph.ClearField("value_info")


def _write_weights(graph: onnx.GraphProto, network: Self2SelfNet, dtype: torch.dtype) -> None:
    import torch
    from onnx import TensorProto, numpy_helper

    stored = {entry.name: entry for entry in graph.initializer}
    for name, weight in host_copy(network).to(dtype).state_dict().items():
        if dtype == torch.bfloat16:
            # numpy has no such type; the file has the bits.
            tensor = TensorProto(name=name, data_type=TensorProto.BFLOAT16, dims=weight.shape)
            tensor.raw_data = weight.contiguous().view(torch.int16).numpy().astype("<i2").tobytes()
        else:
            tensor = numpy_helper.from_array(weight.numpy(), name)
        stored[name].CopyFrom(tensor)


def _write_axes(graph: onnx.GraphProto, contract: Contract, size: tuple[int, int] | None) -> None:
    dims = _free_dims(contract)
    if size is not None:
        axes = {"H": size[0], "W": size[1]}
        dims[IMAGE][2:] = dims[PREDICTION][2:] = size
        for spec in contract.masks:
            dims[spec.name][1:] = spec.shape(axes)
    for value in (*graph.input, *graph.output):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for dim in dims[value.name]:
            if isinstance(dim, int):
                shape.dim.add(dim_value=dim)
            else:
                shape.dim.add(dim_param=dim)


def _free_dims(contract: Contract) -> dict[str, list[int | str]]:
    """Axes of all inputs and of the prediction in a file for any size."""
    colour_image: list[int | str] = [contract.channels, "H", "W"]
    masks: dict[str, list[int | str]] = {spec.name: [BATCH_AXIS, *spec.dims] for spec in contract.masks}
    return {IMAGE: [1, *colour_image], PREDICTION: [BATCH_AXIS, *colour_image], **masks}


def free_size(model: onnx.ModelProto, contract: Contract) -> None:
    """Let a model of a fixed size take any; nodes, weights and the axis of the batch stay as they are."""
    dims = _free_dims(contract)
    for value in (*model.graph.input, *model.graph.output):
        for dim, name in zip(value.type.tensor_type.shape.dim, dims[value.name], strict=True):
            if isinstance(name, str) and name != BATCH_AXIS:
                dim.dim_param = name


def _check_agreement(network: Self2SelfNet, contract: Contract) -> None:
    # A contract that lies about the scale or the shapes is a bug of the caller, not of the user.
    dropout = [spec for spec in contract.masks if spec.name != INPUT_MASK]
    expected = mask_specs(network.channels, network.encoder_width, network.decoder_widths, 0.0, 0.0)
    if [(s.name, s.dims) for s in contract.masks] != [(s.name, s.dims) for s in expected]:
        raise ValueError("the contract's masks are not those of the network")
    if contract.channels != network.channels:
        raise ValueError(f"the contract has {contract.channels} channels; the network has {network.channels}")
    if any(spec.keep_probability != network.decoder_keep for spec in dropout):
        raise ValueError(f"the contract's keep probabilities differ from the network's {network.decoder_keep!r}")


def _check_size(size: Sequence[int], contract: Contract) -> None:
    multiple, minimum = contract.size_multiple, contract.minimum_size
    if any(length % multiple or length < minimum for length in size):
        raise UsageError(
            f"size {size[0]}x{size[1]} cannot be fixed in the model; expected multiples of {multiple} that are at "
            f"least {minimum}, for example {_nearest(size[0], contract)}x{_nearest(size[1], contract)}."
        )


def _nearest(length: int, contract: Contract) -> int:
    multiple = contract.size_multiple
    return max(contract.minimum_size, -(-length // multiple) * multiple)
