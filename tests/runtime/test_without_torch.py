"""Checks that the runtime works where torch is not installed, as on a machine that only denoises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from self2self.runtime.engines.onnxruntime.cpu import installed_packages
from self2self.runtime.ensemble.denoise import denoise_pixels
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.model import Model

ROOT = Path(__file__).parents[2]
MODULES = (
    "engines.engine",
    "engines.onnxruntime.cpu",
    "engines.registry",
    "engines.torch_cpu.reference",
    "ensemble.denoise",
    "model",
)
HEAVY = ("torch", "onnx", "onnxruntime", "onnxscript")


def run_script(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_importing_the_runtime_loads_no_heavy_library() -> None:
    script = (
        "import importlib, sys\n"
        f"for name in {MODULES!r}:\n"
        "    importlib.import_module('self2self.runtime.' + name)\n"
        f"print(sorted(set({HEAVY!r}) & sys.modules.keys()))"
    )
    assert run_script(script).stdout.strip() == "[]"


BLOCKED = """
import json, sys
from pathlib import Path
for name in ("torch", "onnxscript", "torchvision"):
    sys.modules[name] = None  # importing it raises ImportError
import numpy as np
from self2self.errors import EngineUnavailableError
from self2self.runtime.ensemble.denoise import denoise_pixels
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.engines.registry import engine_statuses, get_engine
from self2self.runtime.model import load_model
pixels = np.load(sys.argv[2])
result = denoise_pixels(load_model(sys.argv[1]), pixels, EnsembleOptions(passes=5, seed=3))
np.save(sys.argv[3], result.image)
try:
    get_engine("torch")
    problem = ""
except EngineUnavailableError as error:
    problem = str(error)
works = {status.name: status.works for status in engine_statuses()}
print(json.dumps([result.engine, result.provider, problem, works]))
"""


def test_denoising_without_torch(tiny_model: Model, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).random((3, 40, 70), dtype=np.float32)
    np.save(tmp_path / "in.npy", pixels)
    done = run_script(BLOCKED, str(tiny_model.path), str(tmp_path / "in.npy"), str(tmp_path / "out.npy"))
    engine, provider, problem, works = json.loads(done.stdout)
    assert (engine, provider) == ("mnn", "MNN CPU")
    assert problem == 'engine torch: PyTorch is not installed. Install it: pip install torch. Use engine="auto".'
    assert works["ort"]
    assert not works["torch"]
    assert done.stderr == ""
    expected = denoise_pixels(tiny_model, pixels, EnsembleOptions(engine="torch", passes=5, seed=3)).image
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=0, atol=1e-4)


BROKEN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from self2self.errors import EngineUnavailableError
from self2self.runtime.engines.registry import get_engine
for name in ("ort", "torch"):
    try:
        get_engine(name)
    except EngineUnavailableError as error:
        print(error)
"""


def test_libraries_that_do_not_load(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libx.so: cannot open shared object file\\nmore')")
    (tmp_path / "torch.py").write_text("raise OSError('libc10.so: undefined symbol')")
    lines = run_script(BROKEN, str(tmp_path)).stdout.splitlines()
    package = installed_packages()[0]
    assert lines == [
        "engine ort: ONNX Runtime does not load (libx.so: cannot open shared object file). "
        f'Install it again: pip install --force-reinstall {package}. Or use engine="torch".',
        "engine torch: PyTorch does not load (libc10.so: undefined symbol). "
        'Install it again: pip install --force-reinstall torch. Use engine="auto".',
    ]


NOISY = """
import sys
sys.path.insert(0, sys.argv[1])
from self2self.runtime.engines.onnxruntime.cpu import import_onnxruntime
import_onnxruntime("ort")
"""


@pytest.mark.skipif(os.name != "posix", reason="the notes are about Linux devices")
def test_notes_on_absent_graphics_devices_are_held_back(tmp_path: Path) -> None:
    # ONNX Runtime writes this from C++, on a machine whose graphics device is virtual.
    (tmp_path / "onnxruntime.py").write_text(
        "import os\n"
        "os.write(2, b'[W:onnxruntime:Default, device_discovery.cc:164] GPU device discovery failed\\n')\n"
        "os.write(2, b'something that matters\\n')\n"
        "__version__ = '1'\n"
        "def set_default_logger_severity(level): pass\n"
    )
    assert run_script(NOISY, str(tmp_path)).stderr == "something that matters\n"


def test_an_environment_without_a_stderr(tiny_model: Model) -> None:
    script = (
        "import os, sys\n"
        "os.close(2)\n"
        "from self2self.runtime.engines.onnxruntime.cpu import import_onnxruntime\n"
        "import_onnxruntime('ort')\n"
        "print('ok')"
    )
    assert run_script(script).stdout == "ok\n"
