"""CAREamics (N2V2) and Aydin as a microscopist would use them, each in a process of its own.

Their packages ask for versions of others that the project does not have, so they may be installed elsewhere:
``--external-python PATH`` names an interpreter that has them. Where they are not found they are left out.

- CAREamics: Noise2Void with the changes of N2V2 (Höck et al. 2022), trained on the one image: patches of 64x64 pixels,
  batches of 16, about `STEPS` steps; all else as it is. For its versions from 0.3 on. Smaller images than 192x192
  pixels have too few patches to train and to validate on.
- Aydin (Solak et al. 2022): Noise2Self with its own features and gradient boosting (CatBoost), all settings its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.pairs import FloatArray, Pair
from benchmarks.rivals.rival import Rival

STEPS = 3000
"""Of CAREamics. Its own 30 epochs are for many images: of one of 512x512 pixels they would be a hundred steps."""

CAREAMICS = """
import sys, tempfile
import numpy as np
from careamics import CAREamist
from careamics.config import create_n2v_config

noisy = np.load(sys.argv[1])
grey = len(noisy) == 1
image = noisy[0] if grey else noisy
axes = "YX" if grey else "CYX"
# It sets whole patches aside for validation, and small images have few.
patches = (noisy.shape[1] // 64) * (noisy.shape[2] // 64)
spared = min(8, max(1, patches // 8))
steps = max(1, (patches - spared) // 16)
config = create_n2v_config(
    experiment_name="protocol", data_type="array", axes=axes, n_channels=None if grey else len(noisy),
    patch_size=[64, 64], batch_size=16, num_epochs=STEPS // steps, n_val_patches=spared, use_n2v2=True,
)
with tempfile.TemporaryDirectory() as folder:
    trainer = CAREamist(config, work_dir=folder, enable_progress_bar=False)
    trainer.train(train_data=image)
    (result, *_), _ = trainer.predict(image)
np.save(sys.argv[2], np.asarray(result, np.float32).reshape(noisy.shape))
""".replace("STEPS", str(STEPS))

AYDIN = """
import sys
import numpy as np
from aydin.restoration.denoise.noise2selffgr import Noise2SelfFGR

noisy = np.load(sys.argv[1])
channels = [Noise2SelfFGR(variant="cb") for _ in noisy]
for model, channel in zip(channels, noisy):
    model.train(channel)
result = np.stack([model.denoise(channel) for model, channel in zip(channels, noisy)])
np.save(sys.argv[2], np.asarray(result, np.float32).reshape(noisy.shape))
"""

PROGRAMS = {"careamics": CAREAMICS, "aydin": AYDIN}
LONGEST_MESSAGE = 2000
"""Letters of what a failed program said that are shown."""


def denoise(python: str, program: str, pair: Pair, sigma: float) -> FloatArray:
    """What `program` makes of the noisy image of `pair`, (C, H, W) in [0, 1].

    Args:
        python: the interpreter.
        program: its code, which reads the first file and writes the second.
        pair: of which the noisy image is given.
        sigma: not used.

    Raises:
        RuntimeError: the program failed; with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "noisy.npy", Path(folder) / "result.npy"
        np.save(source, np.ascontiguousarray(pair.noisy, np.float32))
        done = subprocess.run(
            [python, "-c", program, str(source), str(target)], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode or not target.is_file():
            raise RuntimeError(f"the program failed: {done.stderr[-LONGEST_MESSAGE:]}")
        return np.asarray(np.load(target), np.float32)


def missing(python: str, package: str) -> str:
    """Why `package` cannot be used by the interpreter `python`; an empty text if it can."""
    try:
        # Elsewhere than here, where a file of the same name would be found.
        done = subprocess.run(
            [python, "-c", f"import {package}"], cwd=os.sep, capture_output=True, text=True, check=False
        )
    except OSError as error:
        return f"{python} cannot be run: {error}"
    return f"{package} is not installed for {Path(python).name}" if done.returncode else ""


def rivals(python: str | None) -> list[Rival]:
    """CAREamics and Aydin with the interpreter `python`, or this one."""
    return [
        Rival(
            name,
            "nothing",
            False,
            partial(denoise, python or sys.executable, program),
            partial(missing, python or sys.executable, name),
        )
        for name, program in PROGRAMS.items()
    ]
