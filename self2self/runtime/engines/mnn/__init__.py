"""The engine that runs a model with MNN on a CPU."""
