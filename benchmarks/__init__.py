"""Measurements that the documentation cites; run them as `python -m benchmarks.NAME`."""
