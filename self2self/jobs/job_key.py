"""Identifies the work of a command: equal keys mean that the results have the same bits.

A finished file carries the key of its job (`machine.marks`). So a repeated command finds what is done, and tells it
from the result of other settings.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from self2self.jobs.fit_config import FitOptions
from self2self.machine.marks import file_sha256
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.train.run_folder import Run

_NOT_IN_THE_RESULT = {"batch", "allow_fallback", "uncertainty"}
"""Options of the ensemble that leave the denoised image as it is."""


def infer_key(source: Path, model: Path, options: EnsembleOptions) -> str:
    """The key of `infer` for the image or stack `source`; both files are read.

    Raises:
        OSError: a file cannot be read.
    """
    return _key(source, {"model": file_sha256(model)}, options)


def denoise_key(source: Path, fitting: FitOptions, options: EnsembleOptions) -> str:
    """The key of `denoise` for the image or stack `source`; the weights that the fit starts from are read, too.

    Raises:
        OSError: a file cannot be read.
    """
    settings = asdict(fitting)
    # Neither the place of the fit nor the time that it waits for changes its bits.
    del settings["run"], settings["wait"]
    files = {"iqa_weights": fitting.iqa_weights, "init": fitting.init and Run(Path(fitting.init)).model_path}
    for name, path in files.items():
        if path and path.is_file():
            settings[name] = file_sha256(path)
    return _key(source, {"fit": settings}, options)


def _key(source: Path, made_with: dict[str, Any], options: EnsembleOptions) -> str:
    # The package imports the jobs, so its version is read when it is needed.
    from self2self import __version__

    passes = {key: value for key, value in asdict(options).items() if key not in _NOT_IN_THE_RESULT}
    values = {"version": __version__, "source": file_sha256(source), "passes": passes, **made_with}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
