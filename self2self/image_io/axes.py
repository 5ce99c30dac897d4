"""What a description in a TIFF says of the axes of its pages, for another file with the same pages in floats."""

from __future__ import annotations

import re

_OF_VALUES = re.compile(r"^(?:min|max)=.*\n?", re.MULTILINE)
"""Lines of ImageJ about the range in which values are shown."""
_OME_TYPE = re.compile(r"\bType=\"(?:u?int\d+|float|double|bit)\"")
_OME_BITS = re.compile(r"\s+SignificantBits=\"\d+\"")


def is_of_tifffile(description: str) -> bool:
    """Whether tifffile wrote `description`: a JSON object with the shape of the file's pages, and maybe their axes.

    Its versions differ in the order of the entries.
    """
    return description.startswith("{") and '"shape":' in description


def axes_for_floats(description: str | None, text: str) -> str | None:
    """The part of `description` that holds for float32 pages of the same number, order and size.

    Args:
        description: of the first page, as ImageJ, OME or tifffile write it.
        text: what the new file holds; ImageJ's description has room for it.

    Returns:
        the description for the new file; None if `description` says nothing of axes.
    """
    if description is None:
        return None
    if description.startswith("ImageJ="):
        return f"{_OF_VALUES.sub('', description).rstrip()}\ncontent={text}\n"
    if is_of_tifffile(description):
        return description
    if re.search(r"<(?:\w+:)?OME\b", description):
        return _OME_BITS.sub("", _OME_TYPE.sub('Type="float"', description))
    return None
