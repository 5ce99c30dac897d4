"""Measure how often `measure_noise` is right about correlation and σ, on the photographs of scikit-image.

    python -m benchmarks.diagnosis -o benchmarks/results/diagnosis.json

The middle of each photograph gets noise of known level and correlation and is rounded to 8 bits. An alarm is a result
that says the noise is correlated.
"""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from benchmarks.pairs import middle_of_sample
from benchmarks.results_file import result_parser, write_result
from self2self.bench.environment import shown_command
from self2self.imaging.noise import CORRELATION_THRESHOLD, measure_noise

SMOOTH = ("astronaut", "camera", "chelsea", "coffee", "brick", "rocket", "moon", "coins", "retina", "page", "text")
TEXTURED = ("grass", "gravel", "immunohistochemistry", "hubble_deep_field")
"""Photographs with fine texture or grain everywhere, without flat areas."""
SIGMAS = (5, 10, 15, 25, 50)
NEIGHBOUR_WEIGHTS = {"independent": 0.0, "correlation 0.20": 0.1, "correlation 0.37": 0.2, "correlation 0.51": 0.3}
SIZE = 256


def noise(shape: tuple[int, ...], sigma: float, weight: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw Gaussian noise of `sigma` grey levels; `weight` of each value is added to its four neighbours."""
    values = rng.standard_normal(shape)
    for axis in (1, 2):
        values = values + weight * (np.roll(values, 1, axis) + np.roll(values, -1, axis))
    return values * sigma / 255 / values.std()


def main() -> None:
    """Measure, print and write."""
    parser = result_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="draws of the noise for each photograph")
    arguments = parser.parse_args()
    results = []
    for group, names in {"flat parts": SMOOTH, "texture everywhere": TEXTURED}.items():
        for kind, weight in NEIGHBOUR_WEIGHTS.items():
            for sigma in SIGMAS:
                alarms, ratios = [], []
                for name in names:
                    clean = middle_of_sample(name, SIZE)
                    for seed in range(arguments.seeds):
                        noisy = clean + noise(clean.shape, sigma, weight, np.random.default_rng(seed))
                        found = measure_noise(np.round(np.clip(noisy, 0, 1) * 255) / 255)
                        alarms.append(found.correlated)
                        ratios.append(found.sigma / sigma)
                results.append(
                    {
                        "images": group,
                        "noise": kind,
                        "sigma": sigma,
                        "count": len(alarms),
                        "alarms": sum(alarms),
                        "estimated_over_true_sigma": {
                            "median": round(float(np.median(ratios)), 3),
                            "least": round(min(ratios), 3),
                            "most": round(max(ratios), 3),
                        },
                    }
                )
                print(json.dumps(results[-1]))
    values = {
        "command": shown_command("python -m benchmarks.diagnosis"),
        "threshold": CORRELATION_THRESHOLD,
        "photographs": {"flat parts": SMOOTH, "texture everywhere": TEXTURED},
        "results": results,
    }
    write_result(arguments.output, values)


if __name__ == "__main__":
    main()
