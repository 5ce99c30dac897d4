"""What the metadata of an OME-Zarr image say (versions 0.4 and 0.5): its axes, and the levels of its pyramid."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from self2self.errors import InputError, typed

LETTERS = "TCZYX"


@dataclass(frozen=True, slots=True)
class OmeImage:
    """The first multiscale image of a group.

    Attributes:
        attributes: of the group.
        axes: a letter of ``TCZYX`` for each axis, in the order of the array.
        levels: paths of the arrays in the group, from the finest.
    """

    attributes: dict[str, Any]
    axes: str
    levels: tuple[str, ...]

    @classmethod
    def of(cls, attributes: dict[str, Any], path: Path) -> OmeImage | None:
        """The image that the attributes of a group describe; None if they describe none.

        Args:
            attributes: of the group.
            path: of the group, for messages.

        Raises:
            InputError: the metadata are damaged, or the group holds several images, as a plate does.
        """
        ome = attributes.get("ome", attributes)
        if not isinstance(ome, dict) or "multiscales" not in ome:
            _refuse_several(attributes if not isinstance(ome, dict) else ome, path)
            return None
        try:
            multiscale = ome["multiscales"][0]
            names = [_axis_name(axis) for axis in multiscale["axes"]]
            levels = tuple(str(dataset["path"]) for dataset in multiscale["datasets"])
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: its OME metadata are damaged or older than 0.4 (no {error} in multiscales). Name the array "
                f"alone: {path}/0"
            ) from error
        letters = "".join(name.upper() for name in names)
        if len(letters) != len(names) or set(letters) - set(LETTERS) or not levels:
            raise InputError(
                f"{path}: has the axes {', '.join(names)}; expected some of t, c, z, y, x. Name the array alone, with "
                f"its axes: {path}/{levels[0] if levels else 0} {typed('--axes ZYX')}"
            )
        return cls(attributes, letters, levels)

    def for_result(self, about: dict[str, Any]) -> dict[str, Any]:
        """The attributes of a result with the same levels; of several images, it has the first."""
        attributes = {"self2self": about}
        if "ome" in self.attributes:
            kept = {key: value for key, value in self.attributes["ome"].items() if key in ("version", "omero")}
            multiscales = self.attributes["ome"]["multiscales"]
            return {**attributes, "ome": copy.deepcopy({**kept, "multiscales": multiscales[:1]})}
        kept = {key: value for key, value in self.attributes.items() if key == "omero"}
        return {**attributes, **copy.deepcopy({**kept, "multiscales": self.attributes["multiscales"][:1]})}


def _axis_name(axis: Any) -> str:
    return str(axis["name"] if isinstance(axis, dict) else axis)


def _refuse_several(ome: dict[str, Any], path: Path) -> None:
    if "plate" in ome or "well" in ome:
        inner = "A/1/0" if "plate" in ome else "0"
        raise InputError(f"{path}: is a plate of many images; expected one of them. Name it: {path}/{inner}")
    if "bioformats2raw.layout" in ome:
        raise InputError(f"{path}: is a collection of images; expected one of them. Name the first: {path}/0")
