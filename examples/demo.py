"""The program of `make demo`: denoise the example with the command line, and compare with the clean photograph.

    python examples/demo.py FOLDER
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from self2self.image_io import read_image
from self2self.imaging.metrics import psnr, ssim

EXAMPLES = Path(__file__).parent
ROOT = EXAMPLES.parent
GAP = 8
CAPTION = 20


def main() -> None:
    """Denoise, print the scores, and write the before/after image."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    folder.mkdir(exist_ok=True)
    denoised = folder / "denoised.png"
    noisy = Path(os.path.relpath(EXAMPLES / "noisy.png"))
    command = ["denoise", str(noisy), "-o", str(denoised), "--run", str(folder / "run"), "--force"]
    print("$ self2self", *command, flush=True)
    subprocess.run([sys.executable, str(ROOT / "cli.py"), *command], check=True)

    clean = read_image(EXAMPLES / "clean.png", whole_range=True).pixels
    scores = {}
    for name, path in {"noisy": noisy, "denoised": denoised}.items():
        pixels = read_image(path, whole_range=True).pixels
        scores[name] = psnr(pixels, clean)
        print(f"{name:9} PSNR {scores[name]:5.2f} dB   SSIM {ssim(pixels, clean):.3f}")
    print(f"{'gain':9} PSNR {scores['denoised'] - scores['noisy']:+5.2f} dB")

    comparison = folder / "before-after.png"
    side_by_side(
        {
            f"noisy, {scores['noisy']:.1f} dB": noisy,
            f"self2self, {scores['denoised']:.1f} dB": denoised,
            "clean photograph": EXAMPLES / "clean.png",
        }
    ).save(comparison, optimize=True)
    print(f"Look at {comparison}")


def side_by_side(pictures: dict[str, Path]) -> Image.Image:
    """Place images of the same size next to each other, with captions."""
    panels = {caption: np.asarray(Image.open(path).convert("RGB")) for caption, path in pictures.items()}
    height, width = next(iter(panels.values())).shape[:2]
    sheet = Image.new("RGB", (len(panels) * (width + GAP) - GAP, height + CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (caption, panel) in enumerate(panels.items()):
        left = index * (width + GAP)
        draw.text((left + 2, 4), caption, fill="black")
        sheet.paste(Image.fromarray(panel), (left, CAPTION))
    return sheet


if __name__ == "__main__":
    main()
