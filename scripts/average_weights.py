"""Averages two start weights that were fitted from the same weights; the average often predicts better than either.

    python scripts/average_weights.py FIRST.safetensors SECOND.safetensors 0.5 -o OUTPUT.safetensors

The number is the share of the second weights, from 0 to 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def main() -> None:
    """Average the weights and write them as float16."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("share", type=float)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    if not 0 <= args.share <= 1:
        parser.error(f"the share is {args.share:g}; expected 0 to 1")
    first, second = load_file(args.first), load_file(args.second)
    if first.keys() != second.keys():
        parser.error("the two files hold different weights")
    mean = {name: tensor.float().lerp(second[name].float(), args.share) for name, tensor in first.items()}
    save_file({name: tensor.to(torch.float16).contiguous() for name, tensor in mean.items()}, args.output)


if __name__ == "__main__":
    main()
