import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from self2self.imaging.metrics import psnr, ssim


@pytest.mark.parametrize("shape", [(1, 11, 11), (3, 24, 40)])
def test_scores_equal_scikit_image(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    clean = rng.random(shape)
    noisy = clean + 0.1 * rng.standard_normal(shape)
    assert psnr(noisy, clean) == pytest.approx(peak_signal_noise_ratio(clean, noisy, data_range=1.0))
    expected = structural_similarity(
        noisy, clean, data_range=1.0, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(noisy, clean) == pytest.approx(expected, abs=1e-9)


def test_equal_images() -> None:
    image = np.random.default_rng(0).random((3, 16, 16))
    assert psnr(image, image) == math.inf
    assert ssim(image, image) == pytest.approx(1.0)
