"""Do the work of the commands fit, export, infer, denoise and bench, without any knowledge of terminals.

Each job takes plain options, reports its progress to an `Observer`, and returns what the command line prints. Wrong
options and files are refused before the first slow step if possible.

A name is imported from its module when it is used, so that a command that is refused has loaded little.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # For type checkers and editors, which do not see the names that `__getattr__` provides.
    from self2self.jobs.batch_report import write_report_of_batch as write_report_of_batch
    from self2self.jobs.bench import BenchOptions as BenchOptions
    from self2self.jobs.bench import bench_job as bench_job
    from self2self.jobs.export import EngineOptions as EngineOptions
    from self2self.jobs.export import engine_job as engine_job
    from self2self.jobs.export import export_job as export_job
    from self2self.jobs.export import exported_path as exported_path
    from self2self.jobs.export import plain_job as plain_job
    from self2self.jobs.export import precision_job as precision_job
    from self2self.jobs.fit import fit_job as fit_job
    from self2self.jobs.fit_config import FitOptions as FitOptions
    from self2self.jobs.image_batch import ImageBatch as ImageBatch
    from self2self.jobs.infer import denoise_job as denoise_job
    from self2self.jobs.infer import infer_job as infer_job
    from self2self.jobs.inputs import Part as Part
    from self2self.jobs.inputs import has_images as has_images
    from self2self.jobs.inputs import named_images as named_images
    from self2self.jobs.live import LiveChoice as LiveChoice
    from self2self.jobs.live import live_export_job as live_export_job
    from self2self.jobs.live import live_onnx_job as live_onnx_job
    from self2self.jobs.live import live_predict_job as live_predict_job
    from self2self.jobs.manifest import Manifest as Manifest
    from self2self.jobs.observer import Observer as Observer
    from self2self.jobs.output_options import OutputOptions as OutputOptions
    from self2self.jobs.results import DenoiseResult as DenoiseResult
    from self2self.jobs.results import EarlierResult as EarlierResult
    from self2self.jobs.results import FitResult as FitResult
    from self2self.jobs.results import Result as Result
    from self2self.jobs.results import StackResult as StackResult
    from self2self.jobs.series import series_job as series_job
    from self2self.jobs.volumes.result import VolumeResult as VolumeResult
    from self2self.jobs.volumes.volume_job import Workers as Workers
    from self2self.jobs.volumes.volume_job import goes_by_blocks as goes_by_blocks
    from self2self.runtime.ensemble.options import EnsembleOptions as EnsembleOptions

_NAMES_OF_MODULE = {
    "self2self.jobs.bench": ("BenchOptions", "bench_job"),
    "self2self.jobs.export": (
        "EngineOptions",
        "engine_job",
        "export_job",
        "exported_path",
        "plain_job",
        "precision_job",
    ),
    "self2self.jobs.fit": ("fit_job",),
    "self2self.jobs.fit_config": ("FitOptions",),
    "self2self.jobs.batch_report": ("write_report_of_batch",),
    "self2self.jobs.image_batch": ("ImageBatch",),
    "self2self.jobs.infer": ("denoise_job", "infer_job"),
    "self2self.jobs.inputs": ("Part", "has_images", "named_images"),
    "self2self.jobs.live": ("LiveChoice", "live_export_job", "live_onnx_job", "live_predict_job"),
    "self2self.jobs.manifest": ("Manifest",),
    "self2self.jobs.observer": ("Observer",),
    "self2self.jobs.output_options": ("OutputOptions",),
    "self2self.jobs.results": ("DenoiseResult", "EarlierResult", "FitResult", "Result", "StackResult"),
    "self2self.jobs.series": ("series_job",),
    "self2self.jobs.volumes.result": ("VolumeResult",),
    "self2self.jobs.volumes.volume_job": ("Workers", "goes_by_blocks"),
    "self2self.runtime.ensemble.options": ("EnsembleOptions",),
}
_MODULE_OF_NAME = {name: module for module, names in _NAMES_OF_MODULE.items() for name in names}

__all__ = sorted(_MODULE_OF_NAME)


def __getattr__(name: str) -> Any:
    """Import a name from its module when it is used (PEP 562)."""
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module 'self2self.jobs' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF_NAME[name]), name)
