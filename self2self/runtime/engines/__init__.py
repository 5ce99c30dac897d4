"""Engines run passes of a model; each library has a folder of its own."""
