"""Which part of an image layer is meant: the plane in view, a rectangle of it, or all planes.

The functions take layers and viewers of napari, and need no Qt. Positions in a layer's data count in pixels, and pixel
i reaches from i - 0.5 to i + 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import InputError, UsageError

if TYPE_CHECKING:
    import napari.components
    import napari.layers

Region = tuple[slice, ...]

CHANNEL_LABELS = {"c", "ch", "channel", "channels"}
LARGEST_VIEW = 512
"""Largest side of a preview of the view, in pixels, so that it stays a preview in views of large images."""
PLACED_BY = ("affine", "axis_labels", "rotate", "scale", "shear", "translate", "units")
"""Attributes that say where a layer lies."""
NOT_FOR_RESULTS = ("name", "metadata", "visible", "multiscale", "locked_data_level")
"""Attributes that results do not take over."""
IN_PIXELS = ("depiction", "experimental_clipping_planes", "plane")
"""Attributes that hold positions in pixels, which those of a part are not."""


@dataclass(frozen=True, slots=True)
class LayerPart:
    """A part of an image layer, as it was when it was chosen; the layer may change or go afterwards.

    Attributes:
        name: of the layer.
        data: of the layer; of several levels, the first. Its axes are those of the layer, and one of colours if `rgb`.
        region: a slice for each axis of the layer.
        rows: number of the axis Y.
        columns: number of the axis X.
        channel: number of the channel axis, or None.
        rgb: whether the last axis of `data` holds colours.
        attributes: what napari's ``Image`` takes, for results of this part.
        metadata: of the layer.
    """

    name: str
    data: Any
    region: Region
    rows: int
    columns: int
    channel: int | None
    rgb: bool
    attributes: dict[str, Any]
    metadata: dict[str, Any]

    @property
    def placement(self) -> dict[str, Any]:
        """The attributes that say where the result lies."""
        return {name: self.attributes[name] for name in PLACED_BY if name in self.attributes}


def whole(layer: napari.layers.Image, channel: int | None = None) -> LayerPart:
    """All planes of `layer`; rows and columns are its last two axes, apart from the channels.

    Args:
        layer: an image layer.
        channel: number of the channel axis; None for none.

    Raises:
        InputError: the layer has no plane.
    """
    axes = [axis for axis in range(layer.ndim) if axis != channel]
    if len(axes) < 2:
        raise InputError(f"{layer.name}: has {len(axes)} axes beside the channels; expected rows and columns.")
    data = layer.data[0] if layer.multiscale else layer.data
    state = layer.as_layer_data_tuple()[1]
    return LayerPart(
        name=layer.name,
        data=data,
        region=tuple(slice(0, length) for length in data.shape[: layer.ndim]),
        rows=axes[-2],
        columns=axes[-1],
        channel=channel,
        rgb=layer.rgb,
        attributes={name: value for name, value in state.items() if name not in NOT_FOR_RESULTS},
        metadata=dict(layer.metadata),
    )


def plane_in_view(layer: napari.layers.Image, viewer: napari.components.ViewerModel) -> LayerPart:
    """The plane of `layer` that the viewer shows, also where its axes are turned.

    Raises:
        UsageError: the view is in 3-D, or it has left the layer.
    """
    if viewer.dims.ndisplay != 2:
        raise UsageError("the view is in 3-D, so it shows no single plane. Turn it to 2-D, or denoise all planes.")
    part = whole(layer)
    rows, columns = _axes_in_view(layer, viewer)
    point = to_data(layer, np.asarray(viewer.dims.point), viewer)
    region = list(part.region)
    for axis in range(layer.ndim):
        if axis in (rows, columns):
            continue
        index, length = round(float(point[axis])), part.region[axis].stop
        if not 0 <= index < length:
            raise UsageError(f"{layer.name}: the view is at plane {index}, and it has {length}. Move the slider to it.")
        region[axis] = slice(index, index + 1)
    return cut(replace(part, rows=rows, columns=columns), tuple(region), layer)


def rectangle(plane: LayerPart, layer: napari.layers.Image, low: NDArray[Any], high: NDArray[Any]) -> LayerPart:
    """The rectangle of `plane` between two corners.

    Args:
        plane: of `plane_in_view`.
        layer: its layer.
        low: position in the layer's data, of which the axes of rows and columns count.
        high: position of the corner across.

    Raises:
        UsageError: no pixel is in the rectangle.
    """
    region = list(plane.region)
    for axis in (plane.rows, plane.columns):
        first, end = (round(float(corner[axis]) + 0.5) for corner in (low, high))
        region[axis] = slice(max(first, 0), min(end, plane.region[axis].stop))
        if region[axis].start >= region[axis].stop:
            raise UsageError(f"{plane.name}: the rectangle is beside it. Draw one on the image.")
    return cut(plane, tuple(region), layer)


def rectangle_in_view(plane: LayerPart, layer: napari.layers.Image) -> LayerPart:
    """The middle of what the viewer shows of `plane`, at most `LARGEST_VIEW` pixels wide and high."""
    low, high = np.asarray(layer.corner_pixels, float)
    if layer.multiscale:
        # The corners are pixels of the level that is shown, the last ones included.
        factors = np.asarray(layer.downsample_factors)[layer.data_level]
        low, high = low * factors, (high + 1) * factors - 1
    for axis in (plane.rows, plane.columns):
        if high[axis] <= low[axis]:
            # Nothing has been drawn yet.
            low[axis], high[axis] = 0, plane.region[axis].stop - 1
        middle, side = (low[axis] + high[axis]) / 2, min(high[axis] - low[axis] + 1, LARGEST_VIEW)
        low[axis], high[axis] = middle - side / 2, middle + side / 2
    return rectangle(plane, layer, low, high)


def rectangle_of_shape(
    plane: LayerPart,
    layer: napari.layers.Image,
    shapes: napari.layers.Shapes,
    viewer: napari.components.ViewerModel,
) -> LayerPart:
    """The rectangle of `plane` around a shape: the selected one, or else the last.

    Raises:
        UsageError: there is no shape, or it is beside the image.
    """
    if not len(shapes.data):
        raise UsageError(f"{shapes.name}: has no rectangle. Draw one on the image.")
    index = max(shapes.selected_data) if shapes.selected_data else len(shapes.data) - 1
    world = [np.asarray(shapes.data_to_world(corner)) for corner in shapes.data[index]]
    corners = np.array([to_data(layer, point * _per_unit(shapes, viewer), viewer) for point in world])
    return rectangle(plane, layer, corners.min(axis=0), corners.max(axis=0))


def channel_axis_of(layer: napari.layers.Image) -> int | None:
    """The axis whose label says that it holds channels; None if there is none."""
    labels = [str(label).lower() for label in layer.axis_labels]
    return next((axis for axis, label in enumerate(labels) if label in CHANNEL_LABELS), None)


def to_data(
    layer: napari.layers.Layer, point: NDArray[Any], viewer: napari.components.ViewerModel
) -> NDArray[np.float64]:
    """A point of the viewer's world as a position in the layer's data.

    Args:
        layer: any layer.
        point: as the viewer counts, in its units; the last axes count if it has more than the layer.
        viewer: of the layer.
    """
    units = _per_unit(layer, viewer)
    padded = np.zeros(layer.ndim)
    count = min(layer.ndim, len(point))
    padded[layer.ndim - count :] = point[len(point) - count :]
    return np.asarray(layer.world_to_data(padded / units), float)


def cut(part: LayerPart, region: Region, layer: napari.layers.Image) -> LayerPart:
    """`part` with another region, and the attributes of a layer that lies there."""
    from napari.utils.transforms import Affine

    first = [cut_axis.start for cut_axis in region]
    place = Affine(scale=layer.scale, rotate=layer.rotate, shear=layer.shear, translate=layer.translate)
    attributes = {name: value for name, value in part.attributes.items() if name not in IN_PIXELS}
    return replace(part, region=region, attributes={**attributes, "translate": tuple(place(first))})


def _axes_in_view(layer: napari.layers.Image, viewer: napari.components.ViewerModel) -> tuple[int, int]:
    """The axes of the layer that the viewer shows as rows and columns."""
    more = viewer.dims.ndim - layer.ndim
    order = [axis - more for axis in viewer.dims.order if axis >= more]
    return order[-2], order[-1]


def _per_unit(layer: napari.layers.Layer, viewer: napari.components.ViewerModel) -> NDArray[np.float64]:
    """How many of the viewer's units one unit of the layer is, for each axis of the layer."""
    shared = getattr(viewer.dims, "units", None)
    if shared is None or len(shared) < layer.ndim:
        return np.ones(layer.ndim)
    import pint

    def in_base_units(unit: Any) -> float:
        return float(pint.get_application_registry().get_base_units(unit)[0])

    return np.array(
        [
            in_base_units(own) / in_base_units(world)
            for own, world in zip(layer.units, shared[-layer.ndim :], strict=True)
        ]
    )
