"""ZIP files that hold a model for another program: equal models give equal bytes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

_TIMESTAMP = (1980, 1, 1, 0, 0, 0)
"""The earliest time of a ZIP file."""


def packed(files: Mapping[str, bytes]) -> bytes:
    """The bytes of a ZIP file.

    Args:
        files: content by name, in the order of the ZIP file.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as package:
        for name, content in files.items():
            package.writestr(zipfile.ZipInfo(name, _TIMESTAMP), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
