"""ZIP files for other programs."""

from __future__ import annotations

import io
import zipfile

from self2self.export.package import packed


def test_equal_files_give_equal_bytes_in_their_order() -> None:
    files = {"folder/b.json": b"{}", "folder/a.onnx": b"model"}
    data = packed(files)
    assert data == packed(dict(files))
    with zipfile.ZipFile(io.BytesIO(data)) as package:
        assert package.testzip() is None
        assert {name: package.read(name) for name in package.namelist()} == files
        assert package.namelist() == list(files)
