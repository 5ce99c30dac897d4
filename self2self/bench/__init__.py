"""`self2self bench`: what the ensemble costs on this machine, beside the plain PyTorch loop.

One small file for each part: what is measured (`benchmark_model`), in which order (`rounds`), the arithmetic
(`cases`), memory in fresh processes (`memory`), what more passes bring (`convergence`), comparison with
an earlier result (`compare`), and what people read (`table`, `charts`, `page`).
"""
