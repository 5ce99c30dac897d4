"""Denoise on many machines: over a Dask scheduler, or over any `concurrent.futures.Executor`.

    with distributed.Client("tcp://login:8786") as client:
        for source, result in self2self.distributed.denoise_many(sources, client):
            print(source, result)

Needs the extra ``self2self[dask]`` where Dask is used (docs/cluster.md).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from self2self.distributed.cluster import connected as connected
    from self2self.distributed.cluster import workers_of as workers_of
    from self2self.distributed.many import denoise_many as denoise_many
    from self2self.jobs.tasks import Patience as Patience
    from self2self.jobs.volumes.volume_job import Workers as Workers
    from self2self.jobs.worker import Share as Share

_MODULE_OF_NAME = {
    "denoise_many": "self2self.distributed.many",
    "connected": "self2self.distributed.cluster",
    "workers_of": "self2self.distributed.cluster",
    "Workers": "self2self.jobs.volumes.volume_job",
    "Share": "self2self.jobs.worker",
    "Patience": "self2self.jobs.tasks",
}
__all__ = sorted(_MODULE_OF_NAME)


def __getattr__(name: str) -> Any:
    """Import a name from its module when it is used (PEP 562)."""
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module 'self2self.distributed' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF_NAME[name]), name)
