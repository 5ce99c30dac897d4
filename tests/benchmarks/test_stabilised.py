"""The variance-stabilising transform for photon noise, its inverse, and the measured noise."""

import numpy as np
import pytest

from benchmarks.stabilised import PhotonNoise, photon_noise, stabilised, unstabilised

DRAWS = 200_000


def photographed(brightness: float, noise: PhotonNoise, rng: np.random.Generator) -> np.ndarray:
    counted = rng.poisson(brightness / noise.gain, DRAWS) * noise.gain
    return counted + rng.normal(0, np.sqrt(noise.offset), DRAWS)


@pytest.mark.parametrize("noise", [PhotonNoise(0.01, 0.0), PhotonNoise(0.02, 0.001)])
@pytest.mark.parametrize("brightness", [0.1, 0.4, 0.9])
def test_stabilised_noise_has_deviation_1_and_the_inverse_is_unbiased(noise: PhotonNoise, brightness: float) -> None:
    values = stabilised(photographed(brightness, noise, np.random.default_rng(0)), noise)
    assert values.std() == pytest.approx(1, abs=0.03)
    assert unstabilised(values.mean(keepdims=True), noise)[0] == pytest.approx(brightness, rel=0.01)


def test_black_stays_black() -> None:
    noise = PhotonNoise(0.02, 0.0)
    values = stabilised(np.zeros(9), noise)
    np.testing.assert_allclose(unstabilised(values, noise), 0, atol=0.002)


@pytest.mark.parametrize("noise", [PhotonNoise(0.02, 0.001), PhotonNoise(0.02, 0.0)])
def test_the_noise_is_measured_with_the_clean_image(noise: PhotonNoise) -> None:
    rng = np.random.default_rng(1)
    clean = rng.uniform(0, 1, DRAWS)
    noisy = rng.poisson(clean / noise.gain) * noise.gain + rng.normal(0, np.sqrt(noise.offset), DRAWS)
    found = photon_noise(noisy, clean)
    assert found.gain == pytest.approx(noise.gain, rel=0.03)
    assert found.offset == pytest.approx(noise.offset, abs=2e-4)
    assert found.offset >= 0
