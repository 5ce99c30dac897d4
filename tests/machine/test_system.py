"""Test free memory, limits of control groups, CPU features, and how threads wait."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from self2self.machine import system
from self2self.machine.system import cgroup_free_bytes, free_memory_bytes, limit_spin_wait
from tests.commands import run_program


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cgroup_free_bytes(tmp_path / "none", tmp_path) == math.inf
    (tmp_path / "cgroup").write_text("0::/job\n")
    group(tmp_path / "job", memory__max="max\n", memory__current="5\n")
    assert cgroup_free_bytes(tmp_path / "cgroup", tmp_path) == math.inf


def test_version_2_counts_the_tightest_group_above(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/slice/job\n")
    group(
        tmp_path / "slice/job", memory__max="900\n", memory__current="100\n", memory__stat="anon 1\ninactive_file 7\n"
    )
    assert cgroup_free_bytes(tmp_path / "cgroup", tmp_path) == 807
    group(tmp_path / "slice", memory__max="500\n", memory__current="300\n", memory__stat="inactive_file 50\n")
    assert cgroup_free_bytes(tmp_path / "cgroup", tmp_path) == 250


def test_version_1_and_a_path_that_only_the_host_has(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("8:cpu,cpuacct:/x\n7:memory:/docker/abc\n0::/\n")
    group(
        tmp_path / "memory",
        memory__limit_in_bytes="1000\n",
        memory__usage_in_bytes="1200\n",
        memory__stat="total_inactive_file 300\ninactive_file 1\n",
    )
    assert cgroup_free_bytes(tmp_path / "cgroup", tmp_path) == 100
    group(tmp_path / "memory", memory__usage_in_bytes="1500\n")
    assert cgroup_free_bytes(tmp_path / "cgroup", tmp_path) == 0


def test_free_memory_is_the_smaller_of_the_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("self2self.machine.system.cgroup_free_bytes", lambda: 12345)
    assert free_memory_bytes() == 12345
    monkeypatch.setattr("self2self.machine.system.cgroup_free_bytes", lambda: math.inf)
    assert 0 < free_memory_bytes() <= psutil.virtual_memory().total


def test_threads_of_an_engine_follow_the_usual_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "available_cpus", lambda: 4)
    for value, threads in {"": 4, "1": 1, "3": 3, "9": 4, "0": 4, "2,1": 4, "many": 4}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert system.compute_threads() == threads
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert system.compute_threads() == 4


@pytest.mark.parametrize("user_sets", ["", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_waiting_threads_sleep_unless_the_user_sets_otherwise(user_sets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        # Setting the variable first makes monkeypatch restore it in the end.
        monkeypatch.setenv(name, "active")
        if name != user_sets:
            monkeypatch.delenv(name)
    # Whether PyTorch is loaded already depends on the tests before; later ones would warn of it.
    monkeypatch.setattr(system, "_torch_spins", False)
    limit_spin_wait()
    assert os.environ.get("GOMP_SPINCOUNT") == {"": "10000", "GOMP_SPINCOUNT": "active"}.get(user_sets)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are those of glibc")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    script = """
import resource, sys
import numpy as np
from self2self.machine.system import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
def use_and_free():
    blocks = [np.ones(20 * 2**20, np.uint8) for _ in range(4)]
use_and_free()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use_and_free()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment["NUMPY_MADVISE_HUGEPAGE"] = "0"

    def faults(*arguments: str) -> int:
        command = [sys.executable, "-c", script, *arguments]
        return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") < faults() / 10


def test_importing_the_package_sets_it_before_pytorch_loads() -> None:
    script = """
import os, sys
import self2self
print(os.environ["GOMP_SPINCOUNT"], "torch" in sys.modules)
"""
    assert output_without_settings(script).splitlines()[-1] == "10000 False"


def test_a_program_that_loads_pytorch_first_is_warned_in_its_own_line() -> None:
    script = """
import sys, warnings
sys.modules["torch"] = torch = type(sys)("torch")
import self2self
del sys.modules["torch"]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        self2self.denoise([[0, 1], [2, 3]])
    except self2self.Self2SelfError as error:
        print(error)
print([(warning.category.__name__, warning.filename, "GOMP_SPINCOUNT" in str(warning.message)) for warning in caught])
"""
    assert output_without_settings(script).splitlines()[-1] == "[('RuntimeWarning', '<string>', True)]"


def output_without_settings(script: str) -> str:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_cpu_without_amx_or_vnni_costs_no_pytorch(tmp_path: Path) -> None:
    """PyTorch takes seconds to load, and the engines for such CPUs do not need it."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t\t: fpu avx2 avx512_bf16_of_another_name amx_tile avx512_vnni_of_another_name\n")
    script = f"""
import sys
from pathlib import Path
from self2self.machine.system import has_amx, multiplies_bfloat16, multiplies_bytes
cpuinfo = Path({str(cpuinfo)!r})
print(*(able(cpuinfo) for able in (has_amx, multiplies_bfloat16, multiplies_bytes)), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False False False False\n"


def cpuinfo_with(flag: str | None, reported: dict[str, bool], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in which Linux lists `flag`, missing for None, beside a PyTorch that reports `reported`."""
    import torch

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: reported, raising=False)
    cpuinfo = folder / "cpuinfo"
    if flag is not None:
        cpuinfo.write_text(f"flags : fpu {flag} avx2\n")
    return cpuinfo


@pytest.mark.parametrize(
    ("flag", "reported", "in_tiles", "at_all"),
    [
        ("amx_bf16", {"amx_bf16": True}, True, True),
        ("avx512_bf16", {"avx512_bf16": True}, False, True),
        # Linux lists the feature, and PyTorch does not report it.
        ("avx512_bf16", {"avx512_bf16": False}, False, False),
        ("avx512_vnni", {"avx512_vnni": True}, False, False),
        # Other systems have no such list.
        (None, {"avx512_bf16": True}, False, True),
    ],
)
def test_bfloat16_in_vectors_is_not_amx(
    flag: str | None,
    reported: dict[str, bool],
    in_tiles: bool,
    at_all: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpuinfo = cpuinfo_with(flag, reported, tmp_path, monkeypatch)
    assert (system.has_amx(cpuinfo), system.multiplies_bfloat16(cpuinfo)) == (in_tiles, at_all)


@pytest.mark.parametrize(
    ("flag", "reported", "operators", "expected"),
    [
        ("avx512_vnni", {"avx512_vnni": True}, ("qconv_prepack", "qconv_pointwise"), True),
        ("avx_vnni", {"avx_vnni": True}, ("qconv_prepack", "qconv_pointwise"), True),
        # Linux lists the feature, but PyTorch does not report it, or lacks an operator.
        ("avx512_vnni", {"avx512_vnni": False}, ("qconv_prepack", "qconv_pointwise"), False),
        ("avx512_vnni", {"avx512_vnni": True}, ("qconv_pointwise",), False),
        # Other systems have no such list.
        (None, {"avx_vnni": True}, ("qconv_prepack", "qconv_pointwise"), True),
        (None, {}, ("qconv_prepack", "qconv_pointwise"), False),
    ],
)
def test_integers_need_a_cpu_and_operators_for_them(
    flag: str | None,
    reported: dict[str, bool],
    operators: tuple[str, ...],
    expected: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    cpuinfo = cpuinfo_with(flag, reported, tmp_path, monkeypatch)
    monkeypatch.setattr(torch.ops, "onednn", SimpleNamespace(**dict.fromkeys(operators)))
    assert system.multiplies_bytes(cpuinfo) is expected


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux")
@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_of_the_process_counts_as_the_memory_of_the_machine(name: str) -> None:
    code = f"""
import resource
from self2self.machine.system import free_memory_bytes, memory_limit_text
import psutil
assert memory_limit_text() == "", memory_limit_text()
used = psutil.Process().memory_info()
allowed = (used.vms if "{name}" == "RLIMIT_AS" else used.data) + 100 * 2**20
resource.setrlimit(resource.{name}, (allowed, allowed))
free = free_memory_bytes()
assert 80 * 2**20 < free <= 100 * 2**20, free
command = "ulimit -v" if "{name}" == "RLIMIT_AS" else "ulimit -d"
assert memory_limit_text() == f"{{allowed / 1e6:.0f}} MB ({{command}})", memory_limit_text()
held = bytearray(60 * 2**20)
assert 20 * 2**20 < free_memory_bytes() < 45 * 2**20
try:
    bytearray(free + 2**20)
except MemoryError:
    print("refused")
"""
    assert run_program(code).stdout == "refused\n"
