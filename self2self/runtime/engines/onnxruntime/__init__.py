"""Engines that run a model with ONNX Runtime, on CPUs and NVIDIA GPUs."""
