"""What the commands do, with no word about terminals: fit, export, infer, denoise, bench.

Each job takes plain options, tells an `Observer` how far it is, and returns what the command
line prints. Everything that can be refused is refused before the first slow step.
"""

from self2self.jobs.bench import BenchOptions, bench_job
from self2self.jobs.ensemble_options import EnsembleOptions
from self2self.jobs.export import EngineOptions, engine_job, export_job, exported_path, precision_job
from self2self.jobs.fit import FitResult, fit_job
from self2self.jobs.fit_config import FitOptions
from self2self.jobs.image_batch import ImageBatch
from self2self.jobs.infer import DenoiseResult, denoise_job, infer_job
from self2self.jobs.observer import Observer
from self2self.jobs.stack_pages import StackResult

__all__ = [
    "BenchOptions",
    "DenoiseResult",
    "EngineOptions",
    "EnsembleOptions",
    "FitOptions",
    "FitResult",
    "ImageBatch",
    "Observer",
    "StackResult",
    "bench_job",
    "denoise_job",
    "engine_job",
    "export_job",
    "exported_path",
    "fit_job",
    "infer_job",
    "precision_job",
]
