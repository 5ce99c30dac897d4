"""Silence ONNX Runtime's warnings about virtual or absent graphics devices during its import."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2


@contextmanager
def quiet_onnxruntime_import() -> Iterator[None]:
    """Capture stderr while the block runs, then write all of its lines except those with ``device_discovery``.

    ONNX Runtime searches for GPUs while it is imported, before a log level can be set
    (microsoft/onnxruntime#27092). Its C++ code warns if a graphics device is virtual or absent. If
    ONNX Runtime is imported already, the block runs without any capture.
    """
    if "onnxruntime" in sys.modules:
        yield
        return
    try:
        saved = os.dup(_STDERR)
    except OSError:
        # The process was started without a stderr.
        yield
        return
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(saved, _STDERR)
            os.close(saved)
            captured.seek(0)
            for line in captured:
                if b"device_discovery" not in line:
                    os.write(_STDERR, line)
