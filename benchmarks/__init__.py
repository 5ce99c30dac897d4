"""Programs for the measurements that the documentation cites; run one with `python -m benchmarks.NAME`."""

import os

# Some benchmarks import ONNX Runtime themselves; self2self switches its telemetry off.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
