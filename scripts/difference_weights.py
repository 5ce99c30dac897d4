"""How start weights differ from those that they came from, in half the bytes.

    python scripts/difference_weights.py FIRST.safetensors SECOND.safetensors -o OUTPUT.safetensors

Weights that came from others by some thousand steps differ from them by little, so that whole numbers of 8 bits, and
what one of them is worth in each output channel, tell the difference about as exactly as bfloat16 tells weights.
`self2self.train.start_weights` puts both together again.
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
    """What `with_difference` makes `second` of, together with `first`."""
    stored, all_steps = {}, []
    for name in sorted(first):
        change = second[name].float() - first[name].float()
        by_channel = change.flatten(1) if change.dim() > 1 else change[None]
        # A little more than needed, which rounding to float16 may take away again; more than its least.
        steps = (1.001 * by_channel.abs().amax(1, keepdim=True) / LARGEST).clamp(min=1e-7).half()
        numbers = torch.round(by_channel / steps.float()).clamp(-LARGEST, LARGEST)
        stored[name] = numbers.to(torch.int8).view(change.shape).contiguous()
        all_steps.append(steps.flatten())
    return stored | {QUANTISATION_STEPS: torch.cat(all_steps)}


def main() -> None:
    """Write the difference, and say how exact it is."""
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
