"""The table of layers, against everything that has the network's form written down a second time."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from self2self.export.to_onnx import build_model
from self2self.model.contract import INPUT_MASK, SIZE_MULTIPLE
from self2self.model.layers import (
    CONVOLUTIONS,
    LEVELS,
    NEGATIVE_SLOPE,
    NETWORK_INPUT,
    LayerKind,
    LayerSpec,
    network_layers,
    weighted_inputs,
    widths_of,
)
from self2self.runtime.engines.probe_model import build_probe
from self2self.runtime.engines.torch_cpu import bf16_network
from self2self.runtime.engines.torch_cpu.int8_layers import Int8Weights
from tests.conftest import Fitted, build_fitted

HEIGHT, WIDTH = 64, 96
WIDTHS: list[tuple[int, int, tuple[int, ...]]] = [
    (3, 4, (6, 6, 6, 4, 4)),
    (1, 3, (5, 4, 3, 2, 7)),
    (4, 8, (2, 4, 6, 8, 10)),
]


@pytest.fixture(params=WIDTHS, ids=["RGB", "grey", "CMYK"], scope="module")
def fitted(request: pytest.FixtureRequest) -> Fitted:
    return build_fitted(*request.param)


def image_and_masks(fitted: Fitted) -> tuple[Tensor, dict[str, Tensor]]:
    drawn = torch.Generator().manual_seed(0)
    image = torch.rand((1, fitted.network.channels, HEIGHT, WIDTH), generator=drawn)
    shapes = {spec.name: spec.shape({"H": HEIGHT, "W": WIDTH}) for spec in fitted.contract.masks}
    return image, {name: torch.rand((1, *shape), generator=drawn) < 0.6 for name, shape in shapes.items()}


def by_the_table(layer: LayerSpec, read: list[Tensor], fitted: Fitted, masks: dict[str, Tensor]) -> Tensor:
    """The result of `layer`, by its description in the table alone."""
    if layer.kind == LayerKind.POOLING:
        return F.max_pool2d(read[0], 2)
    if layer.kind == LayerKind.UPSAMPLE_AND_CONCATENATE:
        below, skip = read
        return torch.cat([F.interpolate(below, scale_factor=2.0), skip], dim=1)
    (x,) = read
    if layer.mask:
        x = x * (masks[layer.mask] * (1.0 / fitted.network.decoder_keep))
    weight, bias = (fitted.network.state_dict()[name] for name in layer.weights)
    x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight, bias)
    if layer.kind == LayerKind.GATED_CONVOLUTION:
        feature, gate = x.chunk(2, dim=1)
        return F.leaky_relu(feature, NEGATIVE_SLOPE) * gate.sigmoid()
    return x if layer.kind == LayerKind.HEAD else F.leaky_relu(x, NEGATIVE_SLOPE)


@torch.inference_mode()
def test_a_pass_that_follows_the_table_is_the_networks(fitted: Fitted) -> None:
    image, masks = image_and_masks(fitted)
    kept = masks[INPUT_MASK].float()
    made = {NETWORK_INPUT: torch.cat([kept, kept * image], dim=1)}
    for layer in fitted.network.layers:
        read = [made[name] for name in layer.reads]
        assert sum(part.shape[1] for part in read) == layer.inputs
        made[layer.name] = by_the_table(layer, read, fitted, masks)
        assert made[layer.name].shape == (1, layer.outputs, HEIGHT // layer.stride, WIDTH // layer.stride)
    torch.testing.assert_close(made["head"], fitted.network(image, *masks.values()), rtol=0, atol=1e-5)


def test_weights_have_the_names_and_shapes_of_the_state_dict(fitted: Fitted) -> None:
    state = {name: tuple(weight.shape) for name, weight in fitted.network.state_dict().items()}
    assert {name: shape for layer in fitted.network.layers for name, shape in layer.weights.items()} == state
    assert widths_of(state) == (fitted.network.encoder_width, fitted.network.decoder_widths)


def test_convolutions_have_the_same_names_for_all_widths(fitted: Fitted) -> None:
    assert tuple(layer.convolution for layer in fitted.network.layers if layer.convolution) == CONVOLUTIONS


def test_masks_fit_what_their_layers_read(fitted: Fitted) -> None:
    masked = [layer for layer in fitted.network.layers if layer.mask]
    assert [spec.name for spec in fitted.contract.masks] == [INPUT_MASK, *(layer.mask for layer in masked)]
    for layer, spec in zip(masked, fitted.contract.masks[1:], strict=True):
        expected = (layer.inputs, HEIGHT // layer.stride, WIDTH // layer.stride)
        assert spec.shape({"H": HEIGHT, "W": WIDTH}) == expected, layer.name


def test_the_exported_graph_has_the_convolutions_of_the_table(fitted: Fitted) -> None:
    graph = onnx.shape_inference.infer_shapes(build_model(fitted.network, fitted.contract, (HEIGHT, WIDTH))).graph
    assert_graph_agrees(graph, fitted.network.layers)
    sizes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]] for value in graph.value_info}
    for node in graph.node:
        if node.op_type in ("MaxPool", "Concat") and node.name != "stem.seen":
            layer = next(layer for layer in fitted.network.layers if layer.name == node.name)
            assert sizes[node.output[0]] == [layer.outputs, HEIGHT // layer.stride, WIDTH // layer.stride]


def test_the_probe_has_the_layers_of_its_widths() -> None:
    from self2self.runtime.engines.probe_model import CHANNELS, DECODER, ENCODER

    assert_graph_agrees(build_probe().graph, network_layers(CHANNELS, ENCODER, DECODER))


def assert_graph_agrees(graph: onnx.GraphProto, layers: tuple[LayerSpec, ...]) -> None:
    """Compare weights and masks of the convolutions of `graph` with the table, in the order of the data."""
    shapes = {entry.name: tuple(entry.dims) for entry in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    for node, layer in zip(convolutions, (layer for layer in layers if layer.weights), strict=True):
        assert {name: shapes[name] for name in node.input[1:]} == layer.weights
        # Convolution, border, then the product with the scaled mask, where there is one.
        read = makers[makers[node.input[0]].input[0]]
        masks = [name.removesuffix(".scaled") for name in read.input if name.endswith(".scaled")]
        assert masks == ([layer.mask] if layer.mask else [])


def test_weighted_inputs_pass_over_layers_without_weights() -> None:
    inputs = weighted_inputs(network_layers(3, 4, (6, 6, 6, 4, 4)))
    assert inputs["stem"] == ()
    assert inputs["encoder.3"] == ("encoder.2",)
    assert inputs["decoder_first.0"] == ("encoder.5", "encoder.4")
    assert inputs["decoder_first.4"] == ("decoder_second.3", "encoder.0")
    assert inputs["head"] == ("decoder_second.4",)


def test_bfloat16_layers_have_the_weights_of_the_table(fitted: Fitted) -> None:
    network = fitted.network
    made = bf16_network._rounded_weight_set(network, 0, 1)
    gated = [made.stem, *made.encoder]
    plain = [layer for pair in made.decoder for layer in pair] + [made.head]
    kinds = (LayerKind.GATED_CONVOLUTION, LayerKind.CONVOLUTION, LayerKind.HEAD)
    weighted = [layer for layer in network.layers if layer.kind in kinds]
    assert len(gated) + len(plain) == len(weighted)
    for block, layer in zip(gated, weighted, strict=False):
        # The stem reads the image in two parts.
        inputs = layer.inputs + (network.channels if layer.name == "stem" else 0)
        for half in (block.feature, block.gate):
            assert half.weight.shape == (layer.outputs, inputs, 3, 3), layer.name
    for convolution, layer in zip(plain, weighted[len(gated) :], strict=True):
        assert convolution.weight.shape == (layer.outputs, layer.inputs, 3, 3), layer.name


def test_bfloat16_strips_reach_as_far_as_the_convolutions_at_full_resolution() -> None:
    layers = network_layers(3, 4, (6, 6, 6, 4, 4))
    at_the_ends = [layer for layer in layers if layer.convolution and layer.stride == 1]
    before = [layer for layer in at_the_ends if layer.kind == LayerKind.GATED_CONVOLUTION]
    assert len(before) == bf16_network._ENTER_HALO
    assert len(at_the_ends) - len(before) == bf16_network._LEAVE_HALO


@torch.inference_mode()
def test_layers_in_bytes_have_the_widths_of_the_table(fitted: Fitted) -> None:
    image, _ = image_and_masks(fitted)
    made = Int8Weights(fitted.network, image, fitted.contract.masks, 1)
    layers = {layer.name: layer for layer in fitted.network.layers}
    # The prediction is float32; a pooling takes maxima of bytes.
    in_bytes = {n for n, layer in layers.items() if layer.kind not in (LayerKind.POOLING, LayerKind.HEAD)}
    assert made.quantisations.keys() == in_bytes
    assert all(len(quantisation.step) == layers[name].outputs for name, quantisation in made.quantisations.items())
    assert made.sizes.keys() == layers.keys()
    (convolutions,) = made.weight_sets
    biases = [len(layer.bias) for pair in (*convolutions.encoder, *convolutions.decoder) for layer in pair]
    expected = [[layer.outputs] * (2 if "encoder" in name else 1) for name, layer in layers.items() if layer.weights]
    assert [*biases, len(convolutions.head.bias)] == list(np.concatenate(expected[1:]))


def test_the_coarsest_level_has_the_size_that_images_are_padded_to() -> None:
    layers = network_layers(3, 4, (6, 6, 6, 4, 4))
    assert max(layer.stride for layer in layers) == SIZE_MULTIPLE == 2**LEVELS
    assert sum(layer.kind == LayerKind.POOLING for layer in layers) == LEVELS


def test_another_number_of_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="decoder_widths has 3 entries; expected 5"):
        network_layers(3, 48, (96, 96, 96))
