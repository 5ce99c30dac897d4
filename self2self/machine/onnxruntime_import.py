"""Import ONNX Runtime without its warnings about graphics devices that are virtual or absent."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2


@contextmanager
def quiet_onnxruntime_import() -> Iterator[None]:
    """Hold back what is written to stderr, and pass on all but ``device_discovery`` lines.

    ONNX Runtime looks for GPUs while it is imported, before any log level can be set
    (microsoft/onnxruntime#27092), and warns from C++ where a graphics device is virtual or absent.
    Once it is imported, nothing is held back.
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
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(saved, _STDERR)
            os.close(saved)
            held.seek(0)
            for line in held:
                if b"device_discovery" not in line:
                    os.write(_STDERR, line)
