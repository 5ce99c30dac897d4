"""The studies of `python -m benchmarks.study`: open questions of the method, each a module with a `STUDY`."""
