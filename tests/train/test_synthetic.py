import numpy as np
import pytest

from self2self.train.synthetic import NOISES, add_noise


@pytest.mark.parametrize("kind", NOISES)
def test_standard_deviation_at_mid_grey_is_sigma(kind: str) -> None:
    clean = np.full((3, 256, 256), 0.5, np.float32)
    noisy = add_noise(clean, kind, 20, np.random.default_rng(0))
    assert noisy.dtype == np.float32
    assert noisy.shape == clean.shape
    assert 255 * float((noisy - clean).std()) == pytest.approx(20, rel=0.35 if kind == "impulse" else 0.1)
    assert abs(float((noisy - clean).mean())) < 0.005


@pytest.mark.parametrize("kind", NOISES)
def test_result_is_an_8_bit_image_and_reproducible(kind: str) -> None:
    clean = np.random.default_rng(1).random((1, 16, 16), np.float32)
    noisy = add_noise(clean, kind, 60, np.random.default_rng(2))
    levels = noisy * 255
    assert np.abs(levels - np.round(levels)).max() < 1e-4
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    assert np.array_equal(noisy, add_noise(clean, kind, 60, np.random.default_rng(2)))


def test_only_correlated_noise_is_correlated() -> None:
    clean = np.full((1, 256, 256), 0.5, np.float32)

    def neighbours(kind: str) -> float:
        residual = (add_noise(clean, kind, 20, np.random.default_rng(0)) - clean)[0]
        return float(np.corrcoef(residual[:, 1:].ravel(), residual[:, :-1].ravel())[0, 1])

    assert neighbours("correlated") > 0.15
    assert all(abs(neighbours(kind)) < 0.02 for kind in NOISES if kind != "correlated")
