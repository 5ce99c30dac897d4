"""Writes the difference of start weights from the weights that they were fitted from, in half the bytes.

    python scripts/difference_weights.py FIRST.safetensors SECOND.safetensors -o OUTPUT.safetensors

Some thousand steps change weights little. So 8-bit whole numbers with one quantisation step for each output channel
represent the difference about as exactly as bfloat16 represents weights. `self2self.train.start_weights` adds the
difference to the first weights again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from self2self.train.start_weights import QUANTISATION_STEPS, with_difference

LARGEST = 127


def difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    """The difference that `with_difference` adds to `first` for `second`.

    Returns:
        int8 tensors by name, and the quantisation steps as float16, one for each output channel of each weight and one
        for each bias, in the order of names.
    """
    stored, all_steps = {}, []
    for name in sorted(first):
        change = second[name].float() - first[name].float()
        by_channel = change.flatten(1) if change.dim() > 1 else change[None]
        # A little more than needed, because rounding to float16 may reduce it; and not so small that it rounds to 0.
        steps = (1.001 * by_channel.abs().amax(1, keepdim=True) / LARGEST).clamp(min=1e-7).half()
        numbers = torch.round(by_channel / steps.float()).clamp(-LARGEST, LARGEST)
        stored[name] = numbers.to(torch.int8).view(change.shape).contiguous()
        all_steps.append(steps.flatten())
    return stored | {QUANTISATION_STEPS: torch.cat(all_steps)}


def main() -> None:
    """Write the difference, and print its relative error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    first, second = load_file(args.first), load_file(args.second)
    if {name: tensor.shape for name, tensor in first.items()} != {name: t.shape for name, t in second.items()}:
        parser.error("the two files hold different weights")
    stored = difference(first, second)
    save_file(stored, args.output)
    rebuilt = with_difference(first, stored)
    error = torch.cat([(rebuilt[name] - second[name].float()).flatten() for name in second]).norm()
    whole = torch.cat([tensor.float().flatten() for tensor in second.values()]).norm()
    print(f"off by {float(error / whole):.1e} of the weights")


if __name__ == "__main__":
    main()
