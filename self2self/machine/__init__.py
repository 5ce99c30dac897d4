"""Facts about the machine: memory, threads, files, GPUs."""
