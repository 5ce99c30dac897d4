"""The plugin for napari: a dock widget that denoises image layers, and a noisy sample.

`selection` says which part of a layer is meant, `work` denoises it in another thread, and `widget` shows the controls,
which `boxes` makes. Only the last two need Qt.
"""
