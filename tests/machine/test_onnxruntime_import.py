"""ONNX Runtime reports nothing over the network, and leaves no files, unless the user asks for that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT

IMPORT = """
import os
from self2self.runtime.engines.onnxruntime.cpu import import_onnxruntime
import_onnxruntime("ort").get_available_providers()
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


@pytest.mark.parametrize("chosen", ["", "0"])
def test_telemetry_is_off_unless_the_user_decides(chosen: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment |= {"ORT_DISABLE_TELEMETRY": chosen} if chosen else {}
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run([sys.executable, "-c", IMPORT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{chosen or 1}\n"
    if chosen != "0":
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
