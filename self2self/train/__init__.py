"""Fits the network to one image."""
