"""Makes the start weights of `--init natural` from folders of clean photographs.

The network learns to predict the clean photograph from a noisy one of which some values are hidden. It is told the
level of the noise (`told_network`). Kinds and levels of noise, drop rates and crops vary (`prefit_samples`). A fit that
starts from these weights needs a hundred steps instead of thousands.

    python scripts/prefit.py FOLDER... -o pretrained.safetensors --start self2self/weights/pretrained.safetensors

With `--single-pass` nothing is hidden or dropped, and learning goes on from the weights for a single pass. The result
is for passes without masks (`self2self.train.single_pass`):

    python scripts/prefit.py FOLDER... -o single-pass.safetensors --single-pass --batch 4 --steps 9500 --decay 7500

The script saves its whole state beside the output every two minutes, and continues from there when it is started again:
on a CPU with the same bits as without the stop. The learning rate is constant after a warm-up and falls to zero over
the last `--decay` steps. Until the fall begins, a run can be prolonged by a larger `--steps`.

A GPU takes batches: `--device cuda --batch 32 --bfloat16 --workers 12 --minutes 9`.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from prefit_samples import Sample, Samples
from safetensors.torch import load_file
from told_network import ToldForward, add_slopes, load_weights, save_weights, write_tensors
from torch import Tensor
from torch.utils.data import DataLoader

from self2self.errors import Self2SelfError
from self2self.model.contract import MaskSpec, mask_specs
from self2self.model.network import Self2SelfNet, initialise, to_channels_last
from self2self.train.fit import StepMasks, choose_device
from self2self.train.muon import Muon
from self2self.train.start_weights import SINGLE_PASS_FILE

CHANNELS = 3
ENCODER_WIDTH = 48
DECODER_WIDTHS = (96, 96, 96, 64, 32)
BETAS = (0.9, 0.99)
SAVE_SECONDS = 120.0
REPORT_STEPS = 200
LARGEST_NORM = 0.3
"""Gradients are scaled down to this norm."""
LARGEST_JUMP = 20.0
"""Largest norm of a gradient, as a multiple of the median of the last ones; larger gradients change nothing."""
COMPARED_NORMS, FEWEST_NORMS = 500, 200
"""Number of last norms that a norm is compared with, and the number from which on it is."""
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""Names of tensors in the optimiser's state; Muon's parameters have only the second."""


def parse_arguments() -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="weights to start from, with or without slopes; else random ones")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--decay", type=int, default=4_000)
    parser.add_argument("--warm-up", type=int, default=300)
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop after this time, with the state saved"
    )
    parser.add_argument("--rate", type=float, default=2e-4, help="of Adam, for biases, slopes and the last convolution")
    parser.add_argument("--matrix-rate", type=float, default=3e-3, help="of Muon, for all other weights")
    parser.add_argument("--decoder-drop-rate", type=float, default=0.03)
    parser.add_argument("--single-pass", action="store_true", help="for passes without masks")
    parser.add_argument("--size", type=int, default=96, help="side of a crop, a multiple of 32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw samples; else the main one does")
    parser.add_argument("--bfloat16", action="store_true", help="of activations and products: half the time with AMX")
    args = parser.parse_args()
    if args.single_pass:
        if args.start is None:
            args.start = SINGLE_PASS_FILE
        args.decoder_drop_rate = 0.0
    try:
        args.device = choose_device(args.device)
    except Self2SelfError as error:
        parser.error(str(error))
    return args


def main() -> None:
    """Pre-fit until `--steps`, for `--minutes`, or until interrupted."""
    args = parse_arguments()
    training = Training(new_network(args), args.rate, args.matrix_rate)
    state_path = args.output.with_suffix(".state.safetensors")
    if state_path.exists():
        training.load(state_path)
    batches = load_batches(args, training.step)
    masks = StepMasks(dropout_specs(args), (args.size, args.size), args.seed, args.device)
    print(f"step {training.step} of {args.steps}", flush=True)

    begun = saved = time.monotonic()
    losses = []
    for batch in batches:
        losses.append(take_step(args, training, masks, Sample(*(tensor.to(args.device) for tensor in batch))))
        now = time.monotonic()
        is_last = training.step == args.steps or now - begun > 60 * args.minutes
        if training.step % REPORT_STEPS == 0:
            report = f"step {training.step}  rmse {np.mean(losses) * 255:.2f}  skipped {training.guard.skipped}"
            print(report, flush=True)
            losses = []
        if is_last or now - saved > SAVE_SECONDS:
            training.save(state_path)
            save_weights(args.output, training.average)
            saved = now
        if is_last:
            break


def new_network(args: argparse.Namespace) -> Self2SelfNet:
    """The network before the first step, with random weights or those of `--start`."""
    network = Self2SelfNet(CHANNELS, ENCODER_WIDTH, DECODER_WIDTHS, dropout_specs(args)[0].keep_probability)
    initialise(network, "kaiming", torch.Generator().manual_seed(args.seed))
    add_slopes(network)
    if args.start:
        load_weights(args.start, network)
    return to_channels_last(network, args.device)


def dropout_specs(args: argparse.Namespace) -> tuple[MaskSpec, ...]:
    """The decoder's masks; the input's mask comes with the sample."""
    return mask_specs(CHANNELS, ENCODER_WIDTH, DECODER_WIDTHS, 0.0, args.decoder_drop_rate)[1:]


def load_batches(args: argparse.Namespace, first_step: int) -> Iterable[Sample]:
    """The batches of all steps from `first_step` on: samples of tensors with a first axis for the batch."""
    indices = range(first_step * args.batch, args.steps * args.batch)
    samples = Samples(args.folders, args.size, args.seed, hides=not args.single_pass)
    return DataLoader(samples, args.batch, sampler=indices, num_workers=args.workers)


class GradientGuard:
    """Refuses gradients that are not finite or far larger than usual: a step along them would undo hundreds of others.

    Attributes:
        norms: the last finite norms, accepted or not, so that norms that stay large are accepted in the end.
        skipped: number of refused gradients.
    """

    def __init__(self) -> None:
        self.norms: deque[float] = deque(maxlen=COMPARED_NORMS)
        self.skipped = 0

    def accepts(self, norm: float) -> bool:
        """Whether a step may follow a gradient of this norm, before it is scaled down."""
        jumps = len(self.norms) >= FEWEST_NORMS and norm > LARGEST_JUMP * np.median(self.norms)
        is_finite = bool(np.isfinite(norm))
        if is_finite:
            self.norms.append(norm)
        self.skipped += jumps or not is_finite
        return is_finite and not jumps


class Training:
    """All that changes from step to step.

    Args:
        network: on its device, with its first weights.
        rate: largest learning rate of Adam.
        matrix_rate: largest learning rate of Muon.

    Attributes:
        step: number of steps taken.
        average: exponential average of the weights by name, which is the result.
    """

    def __init__(self, network: Self2SelfNet, rate: float, matrix_rate: float) -> None:
        self.network = network
        self.optimiser = Muon(network, rate, matrix_rate, BETAS)
        self.guard = GradientGuard()
        self.step = 0
        self.average = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}

    def update(self, loss: Tensor, rate: float) -> None:
        """Take one step down the gradient of `loss`, unless the gradient is refused."""
        self.optimiser.zero_grad()
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_NORM))
        for group in self.optimiser.param_groups:
            group["lr"] = group.get("rate_scale", 1.0) * rate
        if self.guard.accepts(norm):
            self.optimiser.step()
        self._update_average()
        self.step += 1

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(0.999, (self.step + 1) / (self.step + 10))
        for name, parameter in self.network.named_parameters():
            self.average[name].lerp_(parameter, 1 - decay)

    def save(self, path: Path) -> None:
        """Write everything that continuing needs, 12 MB."""
        tensors = {"step": torch.tensor(self.step), "norms": torch.tensor(self.guard.norms, dtype=torch.float64)}
        for name, parameter in self.network.named_parameters():
            moments = self.optimiser.state.get(parameter, {})
            tensors |= {f"network.{name}": parameter.detach(), f"average.{name}": self.average[name]}
            tensors |= {f"optimiser.{moment}.{name}": tensor for moment, tensor in moments.items()}
        write_tensors(path, tensors)

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Restore what `save` wrote."""
        tensors = load_file(path)
        self.step = int(tensors["step"])
        self.guard.norms.extend(tensors["norms"].tolist())
        for name, parameter in self.network.named_parameters():
            parameter.copy_(tensors[f"network.{name}"])
            self.average[name].copy_(tensors[f"average.{name}"])
            stored = {moment: tensors[key] for moment in MOMENTS if (key := f"optimiser.{moment}.{name}") in tensors}
            if stored:
                # Adam's count of steps stays on the CPU; the other moments lie where and as the parameter does.
                self.optimiser.state[parameter] = {
                    moment: tensor if moment == "step" else torch.empty_like(parameter).copy_(tensor)
                    for moment, tensor in stored.items()
                }


def take_step(args: argparse.Namespace, training: Training, masks: StepMasks, batch: Sample) -> float:
    """Update the network by a batch of tensors on its device; returns the loss."""
    forward = ToldForward(training.network, batch.level, torch.bfloat16 if args.bfloat16 else torch.float32)
    prediction = forward(batch.noisy, batch.input_mask, *masks.make(training.step, len(batch.level)))
    loss = root_mean_square(prediction, batch.clean)
    training.update(loss, learning_rate(training.step, args.steps, args.rate, args.warm_up, args.decay))
    return loss.item()


def root_mean_square(prediction: Tensor, clean: Tensor) -> Tensor:
    """The mean over the batch of each sample's RMSE, in which strong noise counts less than in the mean square."""
    return ((prediction - clean).square().mean((1, 2, 3)) + 1e-6).sqrt().mean()


def learning_rate(step: int, steps: int, peak: float, warm_up: int, decay: int) -> float:
    """Warm-up, constant, linear decay to zero over the last `decay` steps."""
    return peak * min(1.0, (step + 1) / warm_up) * min(1.0, max(0.0, (steps - step) / decay))


if __name__ == "__main__":
    main()
