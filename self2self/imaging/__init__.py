"""Compute arrays and figures from arrays: noise, outliers, local means, detail, orientation, padding, metrics."""
