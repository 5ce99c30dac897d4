"""Models that someone else sends: whatever the exporter would not write is refused in one line before any engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from self2self.errors import FileFormatError
from self2self.export.to_onnx import to_onnx
from self2self.model.contract import METADATA_PREFIX, MaskSpec
from self2self.model.graph import note_weights
from self2self.runtime.model import load_model
from tests.conftest import Fitted

Change = Callable[[onnx.ModelProto], None]


def metadata(key: str, value: object) -> Change:
    def change(proto: onnx.ModelProto) -> None:
        next(e for e in proto.metadata_props if e.key == METADATA_PREFIX + key).value = json.dumps(value)

    return change


def mask_dims(*dims: int | str) -> Change:
    def change(proto: onnx.ModelProto) -> None:
        entry = next(e for e in proto.metadata_props if e.key == METADATA_PREFIX + "masks")
        masks = json.loads(entry.value)
        masks[3]["dims"] = list(dims)
        entry.value = json.dumps(masks)

    return change


def many_channels(proto: onnx.ModelProto) -> None:
    metadata("channels", 200_000)(proto)
    mask_dims(200_000, "H", "W")(proto)
    for value in (*proto.graph.input[:2], *proto.graph.output):
        value.type.tensor_type.shape.dim[1].dim_value = 200_000


def two_of_one_key(proto: onnx.ModelProto) -> None:
    proto.metadata_props.add(key=METADATA_PREFIX + "seed", value="8")


def weight(proto: onnx.ModelProto, name: str = "head.weight") -> onnx.TensorProto:
    return next(entry for entry in proto.graph.initializer if entry.name == name)


def external_data(proto: onnx.ModelProto) -> None:
    tensor = weight(proto)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def empty_initialiser(proto: onnx.ModelProto) -> None:
    weight(proto).ClearField("raw_data")


def absurd_shape(proto: onnx.ModelProto) -> None:
    weight(proto).dims[0] = 2**62


def negative_shape(proto: onnx.ModelProto) -> None:
    weight(proto, "stem.conv.weight").dims[0] = -8


def no_width(proto: onnx.ModelProto) -> None:
    weight(proto, "decoder_first.0.weight").dims[0] = 0


def weight_without_axes(proto: onnx.ModelProto) -> None:
    del weight(proto, "decoder_first.0.weight").dims[:]


def another_type(proto: onnx.ModelProto) -> None:
    array = numpy_helper.to_array(weight(proto))
    weight(proto).CopyFrom(numpy_helper.from_array(array.astype(np.float64), "head.weight"))


def further_initialiser(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "more"))


def repeated_initialiser(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(weight(proto))


def other_border(proto: onnx.ModelProto) -> None:
    weight(proto, "border").CopyFrom(numpy_helper.from_array(np.full(8, 2**40, np.int64), "border"))


def absurd_border(proto: onnx.ModelProto) -> None:
    weight(proto, "border").dims[0] = 2**60


def other_scale(proto: onnx.ModelProto) -> None:
    weight(proto, "scale").CopyFrom(helper.make_tensor("scale", TensorProto.FLOAT, [], [3.0]))


def after_all(*nodes: onnx.NodeProto) -> Change:
    """Put `nodes`, which read `seen` and make `prediction`, behind the last node."""

    def change(proto: onnx.ModelProto) -> None:
        proto.graph.node[-1].output[0] = "seen"
        proto.graph.node.extend(nodes)

    return change


def loop_without_end(proto: onnx.ModelProto) -> None:
    condition = helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])
    count = helper.make_tensor_value_info("count", TensorProto.INT64, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["still"])],
        "body",
        [count, condition],
        [helper.make_tensor_value_info("still", TensorProto.BOOL, [])],
    )
    proto.graph.node.insert(0, helper.make_node("Loop", ["", "yes"], [], body=body))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))


def tile_of_gigabytes(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.full(4, 100_000, np.int64), "times"))
    after_all(helper.make_node("Tile", ["seen", "times"], ["prediction"]))(proto)


def cycle(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[0] = proto.graph.node[-1].output[0]


def other_slope(proto: onnx.ModelProto) -> None:
    node = next(node for node in proto.graph.node if node.op_type == "LeakyRelu")
    node.attribute[0].f = 0.3


def other_domain(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].domain = "com.example"
    proto.opset_import.add(domain="com.example", version=1)


def own_function(proto: onnx.ModelProto) -> None:
    proto.functions.add(name="Conv", domain="")


def other_opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 9999


def other_format(proto: onnx.ModelProto) -> None:
    proto.ir_version = 99


def other_shape_of_output(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 7


def fixed_batch(proto: onnx.ModelProto) -> None:
    proto.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 7


def sequence_input(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT


def shapes_of_others(proto: onnx.ModelProto) -> None:
    proto.graph.value_info.append(helper.make_tensor_value_info("masked", TensorProto.FLOAT, [2**60]))


def unknown_field(proto: onnx.ModelProto) -> None:
    # Field 200, a varint: of no version of the format so far.
    proto.graph.node[3].MergeFromString(b"\xc0\x0c\x01")


CHANGES: dict[str, Change] = {
    **{f"minimum_size {n}": metadata("minimum_size", n) for n in (0, 4, 6, -64, 2**40)},
    **{f"size_multiple {n}": metadata("size_multiple", n) for n in (0, 1, 2**40)},
    "mask dimension Q": mask_dims(6, "Q", "W/8"),
    "mask dimension H/²": mask_dims(6, "H/²", "W/8"),
    "mask dimension of gigabytes": mask_dims(2**40, "H", "W"),
    "no masks": metadata("masks", []),
    "endless number": metadata("channels", 1e400),
    **{
        change.__name__: change
        for change in (
            many_channels,
            two_of_one_key,
            external_data,
            empty_initialiser,
            absurd_shape,
            negative_shape,
            no_width,
            weight_without_axes,
            another_type,
            further_initialiser,
            repeated_initialiser,
            other_border,
            absurd_border,
            other_scale,
            loop_without_end,
            tile_of_gigabytes,
            cycle,
            other_slope,
            other_domain,
            own_function,
            other_opset,
            other_format,
            other_shape_of_output,
            fixed_batch,
            sequence_input,
            shapes_of_others,
            unknown_field,
        )
    },
    "one Mul more": after_all(helper.make_node("Mul", ["seen", "scale"], ["prediction"])),
    "no nodes": lambda proto: proto.graph.ClearField("node"),
    "two nodes less": lambda proto: proto.graph.node.__delitem__(slice(4, 6)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_the_exporter_would_not_write_is_refused(
    name: str, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = onnx.load(tiny_onnx)
    CHANGES[name](proto)
    # Whoever changes a file can also change the digests in it.
    note_weights(proto)
    path = tmp_path / "hostile.onnx"
    path.write_bytes(proto.SerializeToString())
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: pytest.fail("an engine saw the file"))
    with pytest.raises(FileFormatError, match=r"hostile\.onnx: ") as caught:
        load_model(path)
    assert caught.value.exit_code == 6
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("size", [(64, 2**17), (64, 80), (32, 64)])
def test_a_size_that_no_image_has(tiny: Fitted, tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "sized.onnx"
    to_onnx(tiny.network, tiny.contract, path, size=(64, 96))
    proto = onnx.load(path)
    axes = {"H": size[0], "W": size[1]}
    lengths = {spec.name: spec.dims for spec in tiny.contract.masks} | dict.fromkeys(
        ("image", "prediction"), (3, "H", "W")
    )
    for value in (*proto.graph.input, *proto.graph.output):
        dims = [d if isinstance(d, int) else axes[d[0]] // int(d.partition("/")[2] or 1) for d in lengths[value.name]]
        for dim, length in zip(value.type.tensor_type.shape.dim[1:], dims, strict=True):
            dim.dim_value = length
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(FileFormatError, match=rf"size {size[0]}x{size[1]}"):
        load_model(path)


def test_masks_with_several_keep_probabilities(tiny: Fitted, tmp_path: Path) -> None:
    """The graph has one scale, so all masks of the decoder have to keep the same share."""
    first, second, *others = tiny.contract.masks
    masks = (first, MaskSpec(second.name, second.dims, second.keep_count - 1), *others)
    path = tmp_path / "model.onnx"
    to_onnx(tiny.network, tiny.contract, path)
    proto = onnx.load(path)
    helper.set_model_props(proto, replace(tiny.contract, masks=masks).to_metadata())
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(FileFormatError, match="keep different shares"):
        load_model(path)
