"""Do the work of the commands fit, export, infer, denoise and bench, without any knowledge of terminals.

Each job takes plain options, reports its progress to an `Observer`, and returns what the command line prints. Wrong
options and files are refused before the first slow step if possible.
"""

from self2self.jobs.bench import BenchOptions, bench_job
from self2self.jobs.export import EngineOptions, engine_job, export_job, exported_path, plain_job, precision_job
from self2self.jobs.fit import fit_job
from self2self.jobs.fit_config import FitOptions
from self2self.jobs.image_batch import ImageBatch
from self2self.jobs.infer import Result, denoise_job, infer_job
from self2self.jobs.inputs import has_images, named_images
from self2self.jobs.observer import Observer
from self2self.jobs.output_options import OutputOptions
from self2self.jobs.results import DenoiseResult, EarlierResult, FitResult, StackResult
from self2self.runtime.ensemble.options import EnsembleOptions

__all__ = [
    "BenchOptions",
    "DenoiseResult",
    "EarlierResult",
    "EngineOptions",
    "EnsembleOptions",
    "FitOptions",
    "FitResult",
    "ImageBatch",
    "Observer",
    "OutputOptions",
    "Result",
    "StackResult",
    "bench_job",
    "denoise_job",
    "engine_job",
    "export_job",
    "exported_path",
    "fit_job",
    "has_images",
    "infer_job",
    "named_images",
    "plain_job",
    "precision_job",
]
