"""How often the estimate of the noise is right: false alarms, alarms and σ, on scikit-image's photographs.

    python -m benchmarks.diagnosis -o benchmarks/results/diagnosis.json

Noise of known level and correlation is added to the middle of each, and rounded to 8 bits, before `measure_noise`
looks at it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.results_file import write_result
from self2self.bench.environment import shown_command
from self2self.imaging.noise import CORRELATION_THRESHOLD, measure_noise

SMOOTH = ("astronaut", "camera", "chelsea", "coffee", "brick", "rocket", "moon", "coins", "retina", "page", "text")
TEXTURED = ("grass", "gravel", "immunohistochemistry", "hubble_deep_field")
"""Fine texture or grain everywhere: nothing flat to look at."""
SIGMAS = (5, 10, 15, 25, 50)
WEIGHTS = {"independent": 0.0, "correlation 0.20": 0.1, "correlation 0.37": 0.2, "correlation 0.51": 0.3}
SIZE = 256


def load(name: str) -> NDArray[np.float32]:
    """The middle of the photograph, float32 (C, 256, 256) at the most, in [0, 1]."""
    from skimage import data, img_as_float32

    pixels = np.atleast_3d(img_as_float32(getattr(data, name)()))[..., :3]
    top, left = (max(0, (side - SIZE) // 2) for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + SIZE, left : left + SIZE].transpose(2, 0, 1))


def noise(shape: tuple[int, ...], sigma: float, weight: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Gaussian noise, spread over the neighbours with `weight`."""
    values = rng.standard_normal(shape)
    for axis in (1, 2):
        values = values + weight * (np.roll(values, 1, axis) + np.roll(values, -1, axis))
    return values * sigma / 255 / values.std()


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    results = []
    for group, names in {"flat parts": SMOOTH, "texture everywhere": TEXTURED}.items():
        for kind, weight in WEIGHTS.items():
            for sigma in SIGMAS:
                alarms, ratios = [], []
                for name in names:
                    clean = load(name)
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
