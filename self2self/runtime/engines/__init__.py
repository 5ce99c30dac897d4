"""Engines: what runs passes of a model, one folder a library."""
