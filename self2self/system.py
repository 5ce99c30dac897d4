"""What this machine has: CPUs that may be used, memory that is free, memory that was used."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def available_cpus() -> int:
    """CPUs that this process may use, which containers and schedulers limit."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def free_memory_bytes() -> int:
    """Memory that can be taken without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


def peak_memory_bytes() -> int:
    """The most memory that this process has held, counted from where its program began."""
    try:
        # A program that is started by a larger one inherits that one's ru_maxrss, but not this.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024
