"""PyTorch and kernels of our own on NVIDIA GPUs."""
