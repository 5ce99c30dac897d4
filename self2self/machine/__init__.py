"""Read facts about the machine and use it: memory, threads, files, GPUs."""
