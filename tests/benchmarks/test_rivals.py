"""The rivals: weights in MATLAB's layout, the sub-pixel order of FFDNet, and the two small fits."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.pairs import Pair
from benchmarks.rivals import external, ffdnet, make_rivals, noise2fast, ours, zs_n2n
from benchmarks.rivals.matlab import read_layers
from self2self.imaging.metrics import psnr
from self2self.train.recipes import RECIPES
from tests.train.test_fit import TINY

SIDE = 32


def smooth(channels: int = 1, side: int = SIDE) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] / side
    wave = 0.5 + 0.3 * np.sin(5 * rows) * np.cos(4 * columns)
    return np.stack([wave] * channels).astype(np.float32)


def noisy_pair(channels: int = 1, side: int = SIDE) -> Pair:
    clean = smooth(channels, side)
    noise = np.random.default_rng(0).normal(0, 0.1, clean.shape)
    return Pair("wave", (clean + noise).astype(np.float32), clean, 25.5, dtype="float32")


def gain(pair: Pair, result: np.ndarray) -> float:
    return psnr(result, pair.clean) - psnr(pair.noisy, pair.clean)


def write_matlab(path: Path, layers: list[dict[str, object]]) -> None:
    """A network as MATLAB v7.3 stores it: references, letters of UTF-16, axes reversed, last axes of one dropped."""
    h5py = pytest.importorskip("h5py", reason="weights of rivals are HDF5: pip install 'self2self[bench]'")

    def column(values: object) -> np.ndarray:
        return np.asarray(values).reshape(-1, 1)

    with h5py.File(path, "w") as file:
        references = []
        for number, layer in enumerate(layers):
            group = file.create_group(f"#refs#/{number}")
            group["type"] = column([ord(letter) for letter in str(layer["type"])]).astype(np.uint16)
            if "scale" in layer:
                group["scale"] = column([layer["scale"]]).astype(float)
            if "weights" in layer:
                weights, bias = layer["weights"], layer["bias"]
                stored = np.asarray(weights).transpose(0, 1, 3, 2)
                file[f"#refs#/w{number}"] = stored[0] if len(stored) == 1 else stored
                file[f"#refs#/b{number}"] = np.asarray(bias).reshape(1, -1)
                parts = [file[f"#refs#/{letter}{number}"].ref for letter in "wb"]
                group.create_dataset("weights", data=np.array([[part] for part in parts], h5py.ref_dtype))
            else:
                group["weights"] = np.zeros(2, np.uint64)
            references.append([group.ref])
        file.create_dataset("net/layers", data=np.array(references, h5py.ref_dtype))


def convolution(outputs: int, inputs: int, seed: int) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, 0.2, (outputs, inputs, 3, 3)).astype(np.float32)
    return {"type": "conv", "weights": weights, "bias": rng.normal(0, 0.1, outputs).astype(np.float32)}


def test_layers_come_back_with_height_before_width(tmp_path: Path) -> None:
    first, last = convolution(4, 1, 0), convolution(1, 4, 1)
    write_matlab(tmp_path / "net.mat", [{"type": "SubP", "scale": 0.5}, first, {"type": "relu"}, last])
    layers = read_layers(tmp_path / "net.mat")
    assert [layer.kind for layer in layers] == ["SubP", "conv", "relu", "conv"]
    assert layers[0].scale == 0.5
    for layer, written in ((layers[1], first), (layers[3], last)):
        assert layer.weights is not None and layer.bias is not None
        np.testing.assert_array_equal(layer.weights, written["weights"])
        np.testing.assert_array_equal(layer.bias, written["bias"])


def test_subpixels_go_down_the_columns_first_and_come_back() -> None:
    pixels = np.arange(2 * 4 * 6, dtype=np.float32).reshape(2, 4, 6)
    parts = ffdnet.take_apart(pixels)
    assert parts.shape == (8, 2, 3)
    assert [part[0, 0] for part in parts[:4]] == [pixels[0, 0, 0], pixels[0, 1, 0], pixels[0, 0, 1], pixels[0, 1, 1]]
    np.testing.assert_array_equal(ffdnet.put_together(parts), pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_ffdnet_passes_an_image_of_odd_sides_through(tmp_path: Path, channels: int) -> None:
    weights = np.zeros((4 * channels, 4 * channels + 1, 3, 3), np.float32)
    for number in range(4 * channels):
        weights[number, number, 1, 1] = 1
    # Half of the noise level is added: the plane behind the image is that of sigma.
    weights[:, -1, 1, 1] = 0.5
    same = {"type": "conv", "weights": weights, "bias": np.zeros(4 * channels)}
    ends = [{"type": "SubP", "scale": 0.5}, {"type": "concat"}], [{"type": "SubP", "scale": 2.0}]
    for end in ("gray", "color"):
        write_matlab(tmp_path / f"FFDNet_{end}.mat", [*ends[0], same, *ends[1]])
    pair = noisy_pair(channels, 9)
    rival = make_rivals(tmp_path)["ffdnet"]
    assert rival.missing() == ""
    np.testing.assert_allclose(rival.denoise(pair, 51.0), pair.noisy + 0.1, atol=1e-6)
    assert len(rival.inputs(pair)["weights_sha256"]) == 16


def test_dncnn_subtracts_what_it_predicts(tmp_path: Path) -> None:
    layers = [convolution(4, 1, 0), {"type": "relu"}, convolution(1, 4, 1)]
    for end in ("Gray", "Color"):
        write_matlab(tmp_path / f"GD_{end}_Blind.mat", layers)
    pair = noisy_pair()
    values = torch.from_numpy(pair.noisy)[None]
    first, last = (
        (torch.from_numpy(np.asarray(layer["weights"])), torch.from_numpy(np.asarray(layer["bias"])))
        for layer in (layers[0], layers[2])
    )
    conv = torch.nn.functional.conv2d
    noise = conv(torch.relu(conv(values, *first, padding=1)), *last, padding=1)[0].numpy()
    result = make_rivals(tmp_path)["dncnn"].denoise(pair, 0)
    np.testing.assert_allclose(result, pair.noisy - noise, atol=1e-5)


def test_rivals_without_weights_say_so(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    rivals = make_rivals(tmp_path)
    assert rivals["ffdnet-clip"].missing() == "there is no FFDNet_Clip_gray.mat in --anchors"
    assert rivals["dncnn"].missing() == "there is no GD_Gray_Blind.mat in --anchors"


def test_diagonals_are_those_of_each_block() -> None:
    image = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
    rising, falling = zs_n2n.diagonals(image)
    assert (rising.item(), falling.item()) == (2.5, 3.0)


def test_chequerboards_have_each_pixel_once_beside_its_neighbours() -> None:
    image = torch.arange(24.0).reshape(4, 6)
    pairs = noise2fast.chequerboards(image)
    assert [tuple(source.shape[2:]) for source, _ in pairs] == [(4, 3), (4, 3), (2, 6), (2, 6)]
    for source, target in pairs:
        both = torch.cat([source.ravel(), target.ravel()])
        assert sorted(both.tolist()) == image.ravel().tolist()
        # A pixel's partner is next to it, in its row or its column.
        assert set((source - target).abs().ravel().tolist()) in ({1.0}, {6.0})
    assert torch.equal(pairs[0][0], pairs[1][1])


def test_zs_n2n_improves_a_small_noisy_image() -> None:
    pair = noisy_pair(3, 31)
    result = zs_n2n.denoise(pair, 0, steps=100)
    assert result.shape == pair.noisy.shape
    assert gain(pair, result) > 3
    np.testing.assert_array_equal(*(zs_n2n.denoise(pair, 0, steps=2) for _ in range(2)))


def test_noise2fast_improves_a_small_noisy_image() -> None:
    pair = noisy_pair(1, 31)
    result = noise2fast.denoise(pair, 0, patience=30, width=16)
    assert result.shape == pair.noisy.shape
    assert gain(pair, result) > 3


def test_non_local_means_and_bm3d_improve_a_small_noisy_image(tmp_path: Path) -> None:
    rivals = make_rivals(tmp_path)
    pair = noisy_pair(3)
    assert gain(pair, rivals["nlm"].denoise(pair, 25.5)) > 3
    pytest.importorskip("bm3d", reason="the package bm3d is not installed: pip install 'self2self[bench]'")
    assert gain(pair, rivals["bm3d"].denoise(noisy_pair(1), 25.5)) > 3


def test_a_program_of_others_runs_in_a_process_of_its_own() -> None:
    double = "import sys, numpy; numpy.save(sys.argv[2], 2 * numpy.load(sys.argv[1]))"
    pair = noisy_pair()
    np.testing.assert_array_equal(external.denoise(sys.executable, double, pair, 0), 2 * pair.noisy)
    with pytest.raises(RuntimeError, match="it is broken"):
        external.denoise(sys.executable, "raise SystemExit('it is broken')", pair, 0)
    assert external.missing(sys.executable, "numpy") == ""
    assert "no_such_package is not installed" in external.missing(sys.executable, "no_such_package")
    assert "cannot be run" in external.missing("no-such-python", "numpy")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_noisy_file_has_the_values_that_the_rivals_see(tmp_path: Path, channels: int, dtype: str) -> None:
    from benchmarks.pairs import black_to_white
    from self2self.image_io import read_image

    values = noisy_pair(channels).noisy
    pixels = (np.rint(np.clip(values, 0, 1) * 255) / 255).astype(np.float32) if dtype == "uint8" else values
    path = ours.write_noisy(Pair("wave", pixels, pixels, None, dtype=dtype), tmp_path)
    image = read_image(path, whole_range=True)
    assert image.dtype.name == dtype
    np.testing.assert_allclose(black_to_white(image), pixels, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_job_gives_values_from_black_to_white(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setitem(RECIPES, "tiny", TINY)
    # A dark image, which the job maps to a range of its own.
    dark = np.rint(255 * noisy_pair().noisy / 5) / 255
    pair = Pair("dark", dark.astype(np.float32), smooth() / 5, None, dtype=dtype)
    result = ours.denoise("tiny", pair, 0)
    assert result.shape == pair.noisy.shape
    assert result.mean() == pytest.approx(pair.noisy.mean(), abs=0.02)
    assert "recipe" in ours.inputs("tiny", pair)
