"""The ensemble: average many passes of a model over an image."""
