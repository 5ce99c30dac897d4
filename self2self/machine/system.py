"""What this machine has: CPUs that may be used, memory that is free, memory that was used."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def available_cpus() -> int:
    """CPUs that this process may use, which containers and schedulers limit."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def compute_threads() -> int:
    """Threads for an engine: the available CPUs, or fewer if the user says so by OMP_NUM_THREADS, as PyTorch does."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(available_cpus(), int(wanted)) if wanted.isdigit() and int(wanted) else available_cpus()


def wait_briefly() -> None:
    """Let PyTorch's threads sleep after some 30 microseconds of waiting for each other; call it before PyTorch loads.

    By themselves they spin for a millisecond and more. Where other programs have the processors, the thread that is
    waited for does not get one meanwhile: steps of a fit took 14 to 30 times as long as on a quiet machine, and 3 to 8
    times so (dev/log).
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "10000"


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU multiplies matrices of bfloat16 (AMX), several times as fast as those of float32.

    As far as PyTorch tells, which it does from version 2.10 on, and takes seconds to load; so Linux is asked first.

    Args:
        cpuinfo: where Linux lists what the CPU can.
    """
    return _cpu_has({"amx_bf16"}, cpuinfo)


def multiplies_bytes(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU multiplies integers of 8 bits several times as fast as float32 (VNNI), and PyTorch has it do so.

    As far as PyTorch and Linux tell, as for `multiplies_bfloat16`.
    """
    if not _cpu_has({"avx512_vnni", "avx_vnni"}, cpuinfo):
        return False
    import torch

    return all(hasattr(torch.ops.onednn, name) for name in ("qconv_prepack", "qconv_pointwise"))


def _cpu_has(features: set[str], cpuinfo: Path) -> bool:
    """Whether the CPU has one of `features`, which Linux and PyTorch call alike."""
    if cpuinfo.is_file() and not features & set(cpuinfo.read_text().split()):
        return False
    import torch

    known: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    found = known()
    return any(found.get(feature, False) for feature in features)


def free_memory_bytes() -> int:
    """Memory that can be taken without swapping, and within the limits of a container or scheduler."""
    import psutil

    return int(min(psutil.virtual_memory().available, cgroup_free_bytes()))


def cgroup_free_bytes(
    membership: Path = Path("/proc/self/cgroup"), mounts: Path = Path("/sys/fs/cgroup")
) -> int | float:
    """What the memory limits of this process's control group and those above it leave; infinite without limits.

    Args:
        membership: lists the groups of the process, one hierarchy a line.
        mounts: where version 2, or the controllers of version 1, are mounted.
    """
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return math.inf
    free = math.inf
    for _, controllers, group in (line for line in lines if len(line) == 3):
        if controllers == "":
            root, names = mounts, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, names = mounts / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Inside a container the path may be that of the host, of which only the end is mounted: the root.
        folder = root / group.strip("/")
        for level in {folder, *folder.parents, root}:
            if level == root or root in level.parents:
                free = min(free, _left_in(level, *names))
    return free


def _left_in(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> int | float:
    try:
        limit = (folder / limit_name).read_text().strip()
        if limit == "max":
            return math.inf
        used = int((folder / usage_name).read_text())
        # Files that were read and can be dropped at once count as used.
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - used + int(statistics.get(cache_name, 0)))
    except (OSError, ValueError):
        return math.inf


def trim_heap() -> None:
    """Give back what the C library keeps for the next allocation: a few milliseconds, with glibc; else nothing."""
    import ctypes

    # Freed pieces of up to 32 MiB stay with the process: some 200 MB after a pass at 512x512.
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


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
