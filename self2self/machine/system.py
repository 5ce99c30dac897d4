"""Read what this machine offers: usable CPUs, CPU features, free memory, peak memory of the process."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from self2self.errors import ResourceError

_COUNT = re.compile(r"0*[1-9][0-9]{0,5}")
"""A number of threads; `str.isdigit` would take superscripts, too."""

LEAST_FOR_FIT, LEAST_FOR_PASSES = 530 * 10**6, 330 * 10**6
"""What is taken of the memory of a control group by PyTorch and a fit to a small image, and by ONNX Runtime and passes
over one. With 300x300 pixels, and 50 MB taken at the start, fits were killed with limits up to 520 MB, and ended well
with 540; passes were killed with 300 MB, and ended well with 340."""
LEAST_ADDRESS_SPACE, LEAST_DATA = 900 * 10**6, 450 * 10**6
"""What PyTorch, ONNX Runtime and a fit to a small image take of the limits of a process. The libraries alone take 820
and 280 MB on Linux with PyTorch 2.13 for the CPU (`ulimit -v` and `-d`); one for CUDA takes more."""


@dataclass(slots=True)
class Limits:
    """What a caller lets this process take; None leaves it to the machine.

    Attributes:
        threads: number of threads that compute.
        memory_bytes: memory of the process.
    """

    threads: int | None = None
    memory_bytes: int | None = None


limits = Limits()
"""Of this process. A worker of a scheduler sets them to its share of the machine."""


def available_cpus() -> int:
    """Return the number of CPUs that this process may use; containers and schedulers limit it."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def compute_threads() -> int:
    """Return the number of threads for an engine: the available CPUs, or what the caller or OMP_NUM_THREADS allows.

    A number of the caller (`limits`) counts in place of OMP_NUM_THREADS, which schedulers set to 1 for all libraries.
    """
    if limits.threads is not None:
        return min(available_cpus(), limits.threads)
    requested = os.environ.get("OMP_NUM_THREADS", "")
    return min(available_cpus(), int(requested)) if _COUNT.fullmatch(requested) else available_cpus()


def drop_wrong_thread_count() -> str:
    """Remove an OMP_NUM_THREADS that is no number of threads from the environment, before libraries read it.

    Returns:
        what the user should know, without a full stop; empty if the variable is right or not set.
    """
    requested = os.environ.get("OMP_NUM_THREADS")
    # OpenMP also takes a list of numbers, one for each level of nesting.
    if requested is None or all(_COUNT.fullmatch(part) for part in requested.split(",")):
        return ""
    del os.environ["OMP_NUM_THREADS"]
    return f"OMP_NUM_THREADS is {requested!r}, which is no number of threads; it is ignored"


def limit_spin_wait() -> None:
    """Make PyTorch's threads sleep after about 30 microseconds of waiting for each other.

    Call this before PyTorch loads. By default the threads spin for a millisecond and more. If other programs use the
    processors, the spinning threads keep a processor from the thread that they wait for: steps of a fit took 14 to 30
    times as long as on a quiet machine, and 3 to 8 times as long with this setting (dev/log). GOMP_SPINCOUNT and
    OMP_WAIT_POLICY of the user stay as they are.

    OpenMP reads its settings when it loads, so this is too late if PyTorch is there already (`torch_spins`).
    """
    global _torch_spins
    if {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        return
    os.environ["GOMP_SPINCOUNT"] = "10000"
    _torch_spins = "torch" in sys.modules


_torch_spins = False


def torch_spins() -> bool:
    """Whether `limit_spin_wait` came too late, so that PyTorch's threads spin while they wait."""
    return _torch_spins


def keep_freed_memory() -> None:
    """Keep up to 1 GiB of freed memory for what this process takes next, where the C library is glibc.

    By default freed memory goes back to the system soon, and every 4 KiB of the next block cost a page fault. These
    faults were a third of the system time for a photograph of 6 megapixels; the peak of memory is the same (dev/log).
    Call this in a process of our own alone, not in the program of a caller. Settings of the user in the environment
    stay as they are.
    """
    import ctypes

    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return
    trim_threshold, mmap_threshold = -1, -3
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    # glibc takes no larger threshold than 32 MiB; larger blocks are always given back.
    set_option(mmap_threshold, 2**25)
    set_option(trim_threshold, 2**30)


def has_amx(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this CPU multiplies bfloat16 matrices in tiles (AMX), several times as fast as float32 matrices.

    PyTorch reports this from version 2.10 on; with an older PyTorch the answer is False. PyTorch takes seconds to
    load, so Linux's list is read first.

    Args:
        cpuinfo: file in which Linux lists the features of the CPU.
    """
    return _cpu_has({"amx_bf16"}, cpuinfo)


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this CPU multiplies bfloat16 faster than float32: in tiles (AMX), or twice as fast in vectors.

    PyTorch and Linux report the feature as for `has_amx`.

    Args:
        cpuinfo: file in which Linux lists the features of the CPU.
    """
    return _cpu_has({"amx_bf16", "avx512_bf16"}, cpuinfo)


def multiplies_bytes(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this CPU multiplies 8-bit integers several times as fast as float32 (VNNI).

    PyTorch also has to have the operators that use it. PyTorch and Linux report the feature as for
    `has_amx`.

    Args:
        cpuinfo: file in which Linux lists the features of the CPU.
    """
    if not _cpu_has({"avx512_vnni", "avx_vnni"}, cpuinfo):
        return False
    import torch

    return all(hasattr(torch.ops.onednn, name) for name in ("qconv_prepack", "qconv_pointwise"))


def _cpu_has(features: set[str], cpuinfo: Path) -> bool:
    """Return whether the CPU has one of `features`, whose names are the same in Linux and PyTorch."""
    if cpuinfo.is_file() and not features & set(cpuinfo.read_text().split()):
        return False
    import torch

    capabilities: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    found = capabilities()
    return any(found.get(feature, False) for feature in features)


def free_memory_bytes() -> int:
    """Return the memory that can be allocated without swapping and within all limits.

    These are those of container, scheduler and shell, and that of the caller (`limits`).
    """
    import psutil

    given: int | float = math.inf
    if limits.memory_bytes is not None:
        given = max(0, limits.memory_bytes - psutil.Process().memory_info().rss)
    return int(min(psutil.virtual_memory().available, cgroup_free_bytes(), process_free_bytes(), given))


def host_name() -> str:
    """Return the name of this machine in its network."""
    import platform

    return platform.node() or "this machine"


def process_free_bytes() -> int | float:
    """Return the bytes left under the limits of this process (`ulimit -v` and `-d`); infinite without limits."""
    return min((free for free, _, _ in _process_limits()), default=math.inf)


def check_room_for_pytorch(image_bytes: int) -> None:
    """Refuse a limit that is too low for PyTorch and a fit, before PyTorch is loaded.

    Libraries abort the process where they are refused memory, and the kernel kills it where its control group has no
    more. Neither can be caught.

    Args:
        image_bytes: memory of the image as float32.

    Raises:
        ResourceError: the limit is too low.
    """
    if "torch" in sys.modules:
        return
    for free, _, least in _process_limits():
        if free < least:
            raise ResourceError(f"out of memory: PyTorch and a fit need at least {least / 1e6:.0f} MB.")
    check_group(LEAST_FOR_FIT + image_bytes, "PyTorch and a fit")


def check_group_at_start(*, fit: bool) -> None:
    """Refuse a control group that leaves too little memory for an engine, or for a fit, before libraries are loaded.

    Raises:
        ResourceError: it leaves too little.
    """
    if not {"torch", "onnxruntime", "MNN"} & sys.modules.keys():
        what = "PyTorch and a fit" if fit else "an engine and its passes"
        check_group(LEAST_FOR_FIT if fit else LEAST_FOR_PASSES, what)


def check_group(least: int, what: str) -> None:
    """Refuse work that takes more memory than the control group of this process leaves: the kernel would kill it.

    Args:
        least: bytes that the work takes besides what the process has.
        what: the work, for the message.

    Raises:
        ResourceError: there is less.
    """
    if cgroup_free_bytes() < least:
        raise ResourceError(f"out of memory: {what} need at least {least / 1e6:.0f} MB.")


def _process_limits() -> Iterator[tuple[int, str, int]]:
    """The limits of this process: the bytes that each leaves, what it allows in words, and what PyTorch needs of it."""
    try:
        import resource
    except ImportError:
        return
    import psutil

    used = psutil.Process().memory_info()
    for limit, bytes_used, command, least in (
        (resource.RLIMIT_AS, used.vms, "ulimit -v", LEAST_ADDRESS_SPACE),
        (resource.RLIMIT_DATA, getattr(used, "data", 0), "ulimit -d", LEAST_DATA),
    ):
        allowed, _ = resource.getrlimit(limit)
        if allowed != resource.RLIM_INFINITY:
            yield max(0, allowed - bytes_used), f"{allowed / 1e6:.0f} MB ({command})", least


def memory_limit_text() -> str:
    """What this process may take, in words, if a limit leaves it less than the machine has free; else empty."""
    import psutil

    group = cgroup_free_bytes()
    limited = [(free, text) for free, text, _ in _process_limits()]
    free, text = min([*limited, (group, f"{group / 1e6:.0f} MB more (the limit of its control group)")])
    return text if free < psutil.virtual_memory().available else ""


def cgroup_free_bytes(
    membership: Path = Path("/proc/self/cgroup"), mounts: Path = Path("/sys/fs/cgroup")
) -> int | float:
    """Return the bytes left under the memory limits of this process's control group and its parent groups.

    Args:
        membership: file that lists the groups of the process, one hierarchy a line.
        mounts: folder where version 2, or the controllers of version 1, are mounted.

    Returns:
        the smallest remainder of all groups; infinite without limits.
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
        # Inside a container the path may be the host's path, which is not mounted here; the root is the group itself.
        folder = root / group.strip("/")
        for level in {folder, *folder.parents, root}:
            if level == root or root in level.parents:
                free = min(free, _group_free_bytes(level, *names))
    return free


def _group_free_bytes(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> int | float:
    try:
        limit = (folder / limit_name).read_text().strip()
        if limit == "max":
            return math.inf
        used = int((folder / usage_name).read_text())
        # The kernel counts cached files as used, although it can drop them at once.
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - used + int(statistics.get(cache_name, 0)))
    except (OSError, ValueError):
        return math.inf


def trim_heap() -> None:
    """Return freed memory that glibc keeps for later allocations to the system.

    This takes a few milliseconds. With another C library it does nothing.
    """
    import ctypes

    # glibc keeps freed pieces of up to 32 MiB: about 200 MB after a pass at 512x512.
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def peak_memory_bytes() -> int:
    """Return the peak memory of this process since its program began."""
    try:
        # ru_maxrss is inherited from the parent process, which may have been larger; VmHWM is not.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        import psutil

        # Windows knows the peak; elsewhere the memory of now is the best guess.
        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024
