"""Engines with PyTorch on the CPU: the float32 reference, bfloat16 and 8-bit integers."""
