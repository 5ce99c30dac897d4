"""The ensemble: from an image and a model to the mean of many passes."""
