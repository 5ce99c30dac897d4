"""Which pixels of a layer are meant, and where a layer with them lies; on layers and viewers of napari, without Qt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed: pip install 'self2self[napari]'")

from napari.components import ViewerModel
from napari.layers import Image, Shapes

from self2self.errors import InputError, UsageError
from self2self.napari_plugin import selection
from self2self.napari_plugin.selection import LayerPart

STACK = np.arange(3 * 4 * 40 * 48, dtype=np.float32).reshape(3, 4, 40, 48)
TURNED = {"scale": (2, 3, 0.5, 0.25), "translate": (1, 2, 3, 4), "shear": (0, 0, 0, 0, 0, 0.2)}


def viewer_with(*layers: Any) -> ViewerModel:
    viewer = ViewerModel()
    for layer in layers:
        viewer.add_layer(layer)
    return viewer


def stack_layer(**changes: Any) -> Image:
    return Image(STACK, name="cells", **{"scale": (2, 3, 0.5, 0.25), "translate": (1, 2, 3, 4), **changes})


def read(part: LayerPart) -> np.ndarray:
    return np.asarray(part.data[part.region])


def shown_at(part: LayerPart) -> Image:
    """A layer with the part's pixels, placed as the part says."""
    return Image(read(part), **part.placement)


def test_the_plane_in_view() -> None:
    layer = stack_layer()
    viewer = viewer_with(layer)
    viewer.dims.set_current_step(0, 2)
    viewer.dims.set_current_step(1, 1)
    part = selection.plane_in_view(layer, viewer)
    np.testing.assert_array_equal(read(part), STACK[2:, 1:2])
    assert (part.rows, part.columns) == (2, 3)


def test_the_plane_in_view_of_turned_axes() -> None:
    layer = stack_layer()
    viewer = viewer_with(layer)
    viewer.dims.order = (0, 2, 3, 1)
    viewer.dims.set_current_step(0, 1)
    viewer.dims.set_current_step(2, 30)
    part = selection.plane_in_view(layer, viewer)
    np.testing.assert_array_equal(read(part), STACK[1:2, :, 30:31])
    assert (part.rows, part.columns) == (3, 1)


def test_the_plane_of_a_layer_with_fewer_axes_than_the_viewer() -> None:
    layer = Image(STACK[0], name="cells")
    viewer = viewer_with(stack_layer(scale=(1, 1, 1, 1), translate=(0, 0, 0, 0)), layer)
    viewer.dims.set_current_step(1, 3)
    np.testing.assert_array_equal(read(selection.plane_in_view(layer, viewer)), STACK[0, 3:4])


def test_units_of_two_layers() -> None:
    fine = Image(STACK[0], name="cells", scale=(1000, 1, 1), units=("nm", "nm", "nm"))
    coarse = Image(np.zeros((4, 4, 4)), scale=(1, 1, 1), units=("um", "um", "um"))
    for layers in ((fine, coarse), (coarse, fine)):
        viewer = viewer_with(*layers)
        viewer.dims.set_current_step(0, 2)
        part = selection.plane_in_view(fine, viewer)
        # What the layer itself shows.
        np.testing.assert_array_equal(read(part)[0], np.asarray(fine._slice.image.raw))
        assert part.attributes["units"] == fine.units


def test_a_view_without_a_plane_is_refused() -> None:
    layer = stack_layer()
    viewer = viewer_with(layer)
    viewer.dims.ndisplay = 3
    with pytest.raises(UsageError, match="3-D"):
        selection.plane_in_view(layer, viewer)
    long = Image(np.zeros((30, 1, 40, 48)))
    viewer = viewer_with(Image(STACK, name="cells"), long)
    viewer.dims.set_current_step(0, 20)
    with pytest.raises(UsageError, match="cells: the view is at plane 20, and it has 3"):
        selection.plane_in_view(viewer.layers[0], viewer)


@pytest.mark.parametrize("rotate", [0, 30])
def test_a_part_lies_where_its_pixels_lie(rotate: float) -> None:
    layer = Image(
        STACK[0, 0], scale=(0.5, 0.25), translate=(3, 4), rotate=rotate, shear=(0.2,), affine=np.diag((2, 3, 1))
    )
    viewer = viewer_with(layer)
    plane = selection.plane_in_view(layer, viewer)
    part = selection.rectangle(plane, layer, np.array((9.6, 19.7)), np.array((29.4, 44.4)))
    np.testing.assert_array_equal(read(part), STACK[0, 0, 10:30, 20:45])
    placed = shown_at(part)
    for pixel in ((0, 0), (19, 24), (7, 3)):
        there = np.add(pixel, (10, 20))
        np.testing.assert_allclose(placed.data_to_world(pixel), layer.data_to_world(there))


def test_a_rectangle_ends_at_the_image() -> None:
    layer = Image(STACK[0, 0], name="cells")
    plane = selection.plane_in_view(layer, viewer_with(layer))
    part = selection.rectangle(plane, layer, np.array((-20, 40)), np.array((10.4, 99)))
    np.testing.assert_array_equal(read(part), STACK[0, 0, :11, 40:])
    with pytest.raises(UsageError, match="cells: the rectangle is beside it"):
        selection.rectangle(plane, layer, np.array((50, 0)), np.array((60, 10)))


def test_the_rectangle_of_a_shapes_layer() -> None:
    layer = stack_layer()
    shapes = Shapes(
        [[[5, 6], [5, 9], [15, 9], [15, 6]], [[8, 6], [8, 8], [13, 8], [13, 6]]], scale=(1, 2), name="boxes"
    )
    viewer = viewer_with(layer, shapes)
    plane = selection.plane_in_view(layer, viewer)
    # World rows 8 to 13 are (8 - 3) / 0.5 to (13 - 3) / 0.5; world columns 12 to 16 are (12 - 4) / 0.25 to 48.
    part = selection.rectangle_of_shape(plane, layer, shapes, viewer)
    assert part.region[2:] == (slice(10, 20), slice(32, 48))
    shapes.selected_data = {0}
    part = selection.rectangle_of_shape(plane, layer, shapes, viewer)
    assert part.region[2:] == (slice(4, 24), slice(32, 48))
    with pytest.raises(UsageError, match="empty: has no rectangle"):
        selection.rectangle_of_shape(plane, layer, Shapes(name="empty"), viewer)


def test_the_middle_of_the_view() -> None:
    layer = Image(np.zeros((2000, 3000)))
    plane = selection.plane_in_view(layer, viewer_with(layer))
    layer.corner_pixels = np.array([[100, 200], [299, 2199]])
    part = selection.rectangle_in_view(plane, layer)
    assert part.region == (slice(100, 300), slice(944, 1456))
    layer.corner_pixels = np.zeros((2, 2), int)
    part = selection.rectangle_in_view(plane, layer)
    assert part.region == (slice(744, 1256), slice(1244, 1756))


def test_the_full_level_of_several() -> None:
    full = np.random.default_rng(0).random((1024, 2048)).astype(np.float32)
    layer = Image([full, full[::2, ::2], full[::4, ::4]], multiscale=True, name="slide", scale=(3, 3))
    plane = selection.plane_in_view(layer, viewer_with(layer))
    assert plane.data is full or np.array_equal(plane.data, full)
    layer._data_level = 2
    layer.corner_pixels = np.array([[10, 20], [19, 39]])
    part = selection.rectangle_in_view(plane, layer)
    assert part.region == (slice(40, 80), slice(80, 160))
    result = Image(read(part), **part.attributes)
    assert result.multiscale is False
    np.testing.assert_allclose(result.translate, (120, 240))


def test_all_attributes_can_be_given_to_a_new_layer() -> None:
    layer = Image(
        STACK,
        name="cells",
        **TURNED,
        units=("s", "um", "um", "um"),
        axis_labels=("t", "z", "y", "x"),
        colormap="magenta",
        contrast_limits=(3, 4000),
        gamma=0.7,
        blending="additive",
        opacity=0.8,
        interpolation2d="linear",
        metadata={"lens": "63x"},
    )
    for part in (selection.whole(layer), selection.plane_in_view(layer, viewer_with(layer))):
        result = Image(read(part), **part.attributes)
        for name in ("units", "axis_labels", "contrast_limits", "gamma", "blending", "opacity", "interpolation2d"):
            assert getattr(result, name) == getattr(layer, name), name
        assert result.colormap.name == "magenta"
        np.testing.assert_allclose(result.affine.affine_matrix, layer.affine.affine_matrix)
        np.testing.assert_allclose(result.scale, layer.scale)
    np.testing.assert_allclose(selection.whole(layer).attributes["translate"], layer.translate)


def test_channels_by_the_labels_of_axes() -> None:
    assert selection.channel_axis_of(Image(STACK, axis_labels=("t", "Channel", "y", "x"))) == 1
    assert selection.channel_axis_of(Image(STACK)) is None
    part = selection.whole(Image(STACK), channel=3)
    assert (part.rows, part.columns, part.channel) == (1, 2, 3)
    with pytest.raises(InputError, match="1 axes beside the channels"):
        selection.whole(Image(np.zeros((20, 20)), name="flat"), channel=0)
