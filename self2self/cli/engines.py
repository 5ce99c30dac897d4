"""`self2self engines`."""

from __future__ import annotations

from self2self.console import Console, reported
from self2self.options import AsJson, Quiet


@reported
def engines(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Which engines work on this machine, and why the others do not."""
    from dataclasses import asdict

    from self2self.runtime.engine import engine_statuses

    statuses = engine_statuses()
    lines = [f"{s.name:10} {'works  ' if s.works else 'missing'}  {s.version or s.problem}" for s in statuses]
    Console(as_json=as_json, quiet=quiet).result("\n".join(lines), {"engines": [asdict(s) for s in statuses]})
