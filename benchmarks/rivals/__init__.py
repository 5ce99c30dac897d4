"""The methods that `benchmarks.protocol` compares, each with one small interface: `Rival`.

They see the noisy image in [0, 1] (unclipped noise goes beyond), (C, H, W) float32 of one or three channels, and
return one of the same shape. What they are told beside it stands in `Rival.knows`. Weights of others are read
from a folder (`--anchors`), for benchmarks only, and are never shipped.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.rivals.rival import Rival
from self2self.machine.system import limit_spin_wait

__all__ = ["Rival", "make_rivals"]


def make_rivals(anchors: Path, python: str | None = None) -> dict[str, Rival]:
    """All rivals by name.

    Args:
        anchors: folder with the weights of FFDNet and DnCNN.
        python: interpreter that has CAREamics and Aydin; None for this one.
    """
    # As the command does before PyTorch loads: its threads would spin where other programs have the processors.
    limit_spin_wait()
    from benchmarks.rivals import bm3d, dncnn, external, ffdnet, nlm, noise2fast, ours, zs_n2n

    rivals = [
        *bm3d.rivals(),
        *ffdnet.rivals(anchors),
        *dncnn.rivals(anchors),
        *nlm.rivals(),
        *zs_n2n.rivals(),
        *noise2fast.rivals(),
        *external.rivals(python),
        *ours.rivals(),
    ]
    return {rival.name: rival for rival in rivals}
