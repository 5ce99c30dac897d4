"""Engines that run a model with TensorRT and TensorRT-RTX."""
