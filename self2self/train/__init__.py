"""Fitting the network to one image."""
