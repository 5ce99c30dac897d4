"""`self2self bench`: time and memory of the ensemble on this machine, compared with the plain PyTorch loop.

Each module has one part: the measured network (`benchmark_model`), the rounds (`rounds`), the figures of a case
(`cases`), peak memory in fresh processes (`memory`), the effect of more passes (`convergence`), the comparison
with an earlier result (`compare`), and what people read (`table`, `charts`, `page`).
"""
