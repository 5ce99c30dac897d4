"""Import ONNX Runtime without its telemetry, and without its warnings about virtual or absent graphics devices."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2


@contextmanager
def quiet_onnxruntime_import() -> Iterator[None]:
    """Switch telemetry off, and capture stderr while the block runs; lines with ``device_discovery`` are left out.

    From version 1.29 on, ONNX Runtime reports over the network which models it runs, and keeps a device ID in the home
    folder (microsoft/onnxruntime#27379). Its variable ORT_DISABLE_TELEMETRY prevents both if it is set before the
    import; a value that the user has set stays. Packages for Windows report through the system.

    ONNX Runtime searches for GPUs while it is imported, before a log level can be set
    (microsoft/onnxruntime#27092). Its C++ code warns if a graphics device is virtual or absent. If
    ONNX Runtime is imported already, the block runs without any capture.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if "onnxruntime" in sys.modules:
        yield
        return
    with _quiet_stderr():
        yield
    if os.environ["ORT_DISABLE_TELEMETRY"] == "1" and "onnxruntime" in sys.modules:
        # An absent function means an old version, which has no telemetry but on Windows.
        with contextlib.suppress(AttributeError):
            sys.modules["onnxruntime"].disable_telemetry_events()


@contextmanager
def _quiet_stderr() -> Iterator[None]:
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
