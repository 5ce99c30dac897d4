"""MNN on CPUs."""
