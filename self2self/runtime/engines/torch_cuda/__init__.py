"""The engine with PyTorch and custom CUDA kernels on NVIDIA GPUs."""
