"""Compare a fit of a stack's second frame that starts from the first (`--init RUN`) with a fit that starts anew.

    python -m benchmarks.stack_init -o benchmarks/results/stack-init.json

The frames are 128x128 crops of a photograph of scikit-image with independent Gaussian noise; the second crop is three
rows lower and two columns further right. The first frame is fitted with `--recipe`. The second frame is fitted in
several ways: anew with all steps; from the first frame with the settings of `--init RUN`; and with each `--follow`,
which changes these settings (``steps=75,learning_rate=0.001``). PSNR is that of the result of `self2self denoise`;
times are of the fit alone.

`--images` has names of samples with the top left corner of the crop, `name:top:left`. The default images were not used
to choose the settings of `--init RUN`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.clocked import Stopwatch, clocked_fit
from benchmarks.methods import recipe_for_image, recipe_inputs, seen_by
from benchmarks.pairs import Pair, cut, parse_changes, sample
from benchmarks.product import Weights, adapted, exported, start_weights_of
from benchmarks.results_file import ResultsFile, Row, result_parser
from self2self.imaging.noise import Noise
from self2self.runtime.ensemble.denoise import denoise_pixels
from self2self.train.recipes import Recipe, following
from self2self.train.synthetic_noise import add_noise

SIZE, SHIFT = 128, (3, 2)
IMAGES = "chelsea:80:100,camera:60:190,coins:60:100"


def frames(name: str, sigma: float) -> tuple[Pair, Pair]:
    """Make two noisy frames of the sample `name:top:left`."""
    image, top, left = name.split(":")
    made = []
    for index in range(2):
        corner = {"top": int(top) + index * SHIFT[0], "left": int(left) + index * SHIFT[1], "size": SIZE}
        clean = cut(sample(image), corner)
        noisy = add_noise(clean, "gaussian", sigma, np.random.default_rng(index))
        made.append(Pair(image, noisy, clean, sigma))
    return made[0], made[1]


def fit_frame(pair: Pair, recipe: Recipe, noise: Noise | None, start: Weights | None) -> tuple[Row, Weights]:
    """Fit one frame; return its row with scores and times, and the weights for the next frame."""
    watch = Stopwatch()
    state = clocked_fit(pair.noisy, recipe, start, watch)
    with exported(state, recipe, noise) as model:
        result = denoise_pixels(model, pair.noisy).image
    row = {"steps": recipe.steps, "learning_rate": recipe.learning_rate, **watch.seconds("fit_")}
    return {**row, **pair.scores(result)}, state.weights()


def main() -> None:
    """Measure, print and write."""
    parser = result_parser(__doc__)
    parser.add_argument("--images", default=IMAGES, help="samples and corners, name:top:left, separated by commas")
    parser.add_argument("--sigma", type=float, default=25)
    parser.add_argument("--recipe", action="append", default=[], help="fast (default), fast:scratch, ...; repeatable")
    parser.add_argument("--follow", action="append", default=[], help="changes to --init RUN; repeatable")
    args = parser.parse_args()
    file = ResultsFile(args.output, "python -m benchmarks.stack_init", {"sigma": args.sigma, "shift": SHIFT})
    for name in args.images.split(","):
        pair = frames(name, args.sigma)
        channels = pair[0].noisy.shape[0]
        for text in args.recipe or ["fast"]:
            first, second = (seen_by(text, frame) for frame in pair)
            recipe, noise = recipe_for_image(text, first.noisy)
            follow, _ = adapted(following(recipe, recipe), second.noisy)
            plans = {f"{text}, anew": recipe, f"{text}, from the first frame": follow}
            plans |= {f"{text}, from the first frame, {c}": replace(follow, **parse_changes(c)) for c in args.follow}
            heads = {
                method: {"image": first.name, "method": method, "inputs": recipe_inputs(plan, second)}
                for method, plan in plans.items()
            }
            missing = [method for method, head in heads.items() if file.find(**head) is None]
            if not missing:
                continue
            start = start_weights_of(recipe, channels, noise)
            _, weights = fit_frame(first, recipe, noise, start)
            for method in missing:
                anew = plans[method] is recipe
                row, _ = fit_frame(second, plans[method], noise, start if anew else weights)
                file.put({**heads[method], **row})
                print(f"{first.name:10} {method:60} {row['steps']:5} steps {row['psnr']:6.2f} dB", flush=True)
    for method, mean in file.means().items():
        print(f"{'mean':10} {method:60} {'':11} {mean['psnr']:6.2f} dB")


if __name__ == "__main__":
    main()
