"""Builds one self-describing ONNX file of a network.

The masks are ordinary inputs. So the graph (`self2self.model.graph`) has no random nodes, and no dropout nodes, which
engines treat as identity. Nothing in the graph depends on the image size: convolutions pad by constants, and the
upsampling scales by a constant factor.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from self2self.errors import UsageError
from self2self.imaging.padding import padded_size
from self2self.machine.files import atomic_write
from self2self.model.contract import IMAGE, INPUT_MASK, PREDICTION, Contract, mask_specs
from self2self.model.graph import BATCH_AXIS, element_type, free_dims, network_graph, note_weights, versions

if TYPE_CHECKING:
    import onnx
    import torch

    from self2self.model.network import Self2SelfNet


def to_onnx(
    network: Self2SelfNet, contract: Contract, path: str | os.PathLike[str], *, size: tuple[int, int] | None = None
) -> None:
    """Write `network` as one `.onnx` file, or leave `path` unchanged if that fails.

    An existing file is replaced. The file is not compared with PyTorch; `export_model` does that as well.

    Args:
        network: on any device and in any memory format; not changed.
        contract: becomes the metadata of the file; it must describe `network`.
        path: of the file, which includes the weights.
        size: fixed (height, width); by default both are free.

    Raises:
        UsageError: the network does not accept `size`.
        ResourceError, OutputError: the file cannot be written.
    """
    atomic_write(path, serialise(build_model(network, contract, size)))


def build_model(network: Self2SelfNet, contract: Contract, size: tuple[int, int] | None = None) -> onnx.ModelProto:
    """Build the ONNX model of `network` in memory and check it; arguments and errors are those of `to_onnx`.

    The initialisers of weights have the names of the network's ``state_dict``. Weights and all computed
    tensors have the type of `contract.precision`; the inputs and the prediction keep their types.

    Raises:
        ValueError: `contract` does not describe `network`.
    """
    import onnx

    check_agreement(network, contract)
    if size is not None:
        _check_size(size, contract)
    graph = network_graph(contract, network.layers, element_type(contract.precision))
    opset, ir_version = versions(contract.precision)
    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name="self2self")
    _add_weights(model.graph, network, dtype_of(contract.precision))
    if size is not None:
        _fix_size(model.graph, contract, size)
    onnx.helper.set_model_props(model, contract.to_metadata())
    note_weights(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def serialise(model: onnx.ModelProto) -> bytes:
    """Serialise a model. Equal models give equal bytes, so that engine caches can use a hash of them as key."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def host_copy(network: Self2SelfNet) -> Self2SelfNet:
    """A float32 copy of `network` on the CPU, contiguous, in evaluation mode, without gradients."""
    from self2self.model.network import Self2SelfNet

    twin = Self2SelfNet(network.channels, network.encoder_width, network.decoder_widths, network.decoder_keep)
    twin.load_state_dict(network.state_dict())
    twin.requires_grad_(False)
    twin.eval()
    return twin


def dtype_of(precision: str) -> torch.dtype:
    """PyTorch's dtype for ``"fp32"``, ``"fp16"`` or ``"bf16"``."""
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def _add_weights(graph: onnx.GraphProto, network: Self2SelfNet, dtype: torch.dtype) -> None:
    import torch
    from onnx import TensorProto, numpy_helper

    for name, weight in host_copy(network).to(dtype).state_dict().items():
        if dtype == torch.bfloat16:
            # numpy has no bfloat16, so the bits are stored directly.
            tensor = TensorProto(name=name, data_type=TensorProto.BFLOAT16, dims=weight.shape)
            tensor.raw_data = weight.contiguous().view(torch.int16).numpy().astype("<i2").tobytes()
        else:
            tensor = numpy_helper.from_array(weight.numpy(), name)
        graph.initializer.append(tensor)


def _fix_size(graph: onnx.GraphProto, contract: Contract, size: tuple[int, int]) -> None:
    """Replace the names of the size axes in `graph` by the lengths for `size`, (height, width)."""
    axes = dict(zip("HW", size, strict=True))
    lengths = {spec.name: [BATCH_AXIS, *spec.shape(axes)] for spec in contract.masks}
    lengths |= {IMAGE: [1, contract.channels, *size], PREDICTION: [BATCH_AXIS, contract.channels, *size]}
    for value in (*graph.input, *graph.output):
        for dim, length in zip(value.type.tensor_type.shape.dim, lengths[value.name], strict=True):
            if isinstance(length, int):
                dim.dim_value = length


def free_size(model: onnx.ModelProto, contract: Contract) -> None:
    """Make the size axes of a model with a fixed size free; nodes, weights and the batch axis stay unchanged."""
    dims = free_dims(contract)
    for value in (*model.graph.input, *model.graph.output):
        for dim, name in zip(value.type.tensor_type.shape.dim, dims[value.name], strict=True):
            if isinstance(name, str) and name != BATCH_AXIS:
                dim.dim_param = name


def check_agreement(network: Self2SelfNet, contract: Contract) -> None:
    """Raise a ValueError if `contract` does not describe `network`."""
    # A contract with wrong shapes or a wrong dropout scale is a bug of the caller, not an error of the user.
    dropout = [spec for spec in contract.masks if spec.name != INPUT_MASK]
    expected = mask_specs(network.channels, network.encoder_width, network.decoder_widths, 0.0, 0.0)
    if [(s.name, s.dims) for s in contract.masks] != [(s.name, s.dims) for s in expected]:
        raise ValueError("the contract's masks are not those of the network")
    if contract.channels != network.channels:
        raise ValueError(f"the contract has {contract.channels} channels; the network has {network.channels}")
    if any(spec.keep_probability != network.decoder_keep for spec in dropout):
        raise ValueError(f"the contract's keep probabilities differ from the network's {network.decoder_keep!r}")


def _check_size(size: tuple[int, int], contract: Contract) -> None:
    multiple, minimum = contract.size_multiple, contract.minimum_size
    if any(length % multiple or length < minimum for length in size):
        near = "x".join(map(str, padded_size(*size, multiple, minimum)))
        raise UsageError(
            f"size {size[0]}x{size[1]} cannot be fixed in the model; expected multiples of {multiple} that are at "
            f"least {minimum}, for example {near}."
        )
