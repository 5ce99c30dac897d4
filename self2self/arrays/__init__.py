"""Denoise arrays: `denoise`, `fit`, `load` and `Model` of the package, for programs and notebooks.

The jobs (`jobs.in_memory`) do the work. This room says which axes of an array are pages, colours and channels, shows
progress, and gives results the axes of the input.
"""
