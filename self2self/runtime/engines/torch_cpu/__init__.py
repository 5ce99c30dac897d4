"""PyTorch on CPUs: the reference, bfloat16 and 8-bit integers."""
