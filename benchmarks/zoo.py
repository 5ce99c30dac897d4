"""Export models of other libraries with live dropout, and check that no random draw is lost.

    python -m benchmarks.zoo -o benchmarks/results/zoo.json
    python -m benchmarks.zoo --only timm -o zoo.json

Each model has random weights, so nothing is downloaded. `self2self.export_live` counts the draws that PyTorch makes,
compares the file with PyTorch and neutral masks with evaluation mode, and changes each draw alone. This program also
compares the cut graph with the whole one, and 400 passes of the file with 400 runs of PyTorch's own dropout. A library
that is not installed is left out; `make zoo` installs all of them.
"""

from __future__ import annotations

import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_file import provenance, result_parser, write_result

PASSES = 400
"""Passes that are compared with as many runs of PyTorch."""


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        library: that has to be installed.
        make: returns the model and its example inputs.
        dynamic: as in `export_live`.
    """

    library: str
    make: Callable[[], tuple[Any, Any]]
    dynamic: dict[str, tuple[int, ...]] = field(default_factory=dict)


def image(side: int, channels: int = 3) -> Any:
    """A batch of one random image."""
    import torch

    return torch.randn(1, channels, side, side)


def tokens(length: int = 12) -> Any:
    """A batch of one random sequence of 99 kinds of tokens."""
    import torch

    return torch.randint(3, 99, (1, length))


def torchvision(name: str, side: int = 64, **options: Any) -> Callable[[], tuple[Any, Any]]:
    """A classifier of torchvision."""

    def make() -> tuple[Any, Any]:
        from torchvision import models

        return models.get_model(name, weights=None, **options), image(side)

    return make


def timm(name: str, side: int = 64, **options: Any) -> Callable[[], tuple[Any, Any]]:
    """A classifier of timm."""

    def make() -> tuple[Any, Any]:
        import timm as library

        return library.create_model(name, pretrained=False, **options), image(side)

    return make


def transformers(kind: str, inputs: Callable[[], Any], **options: Any) -> Callable[[], tuple[Any, Any]]:
    """A small model of transformers, of the class and the configuration that begin with `kind`."""

    def make() -> tuple[Any, Any]:
        import transformers as library

        task = {"Bert": "ForSequenceClassification", "DistilBert": "ForSequenceClassification"}
        task |= {"GPT2": "LMHeadModel", "Llama": "ForCausalLM", "Segformer": "ForSemanticSegmentation"}
        task |= {"ConvNext": "ForImageClassification", "T5": "ForConditionalGeneration"}
        config = getattr(library, f"{kind}Config")(**options)
        config.use_cache = False
        return getattr(library, kind + task[kind])(config), inputs()

    return make


def monai(name: str, inputs: Callable[[], Any], *arguments: Any, **options: Any) -> Callable[[], tuple[Any, Any]]:
    """A network of MONAI."""

    def make() -> tuple[Any, Any]:
        from monai.networks import nets

        return getattr(nets, name)(*arguments, **options), inputs()

    return make


def segmentation(name: str) -> Callable[[], tuple[Any, Any]]:
    """A network of segmentation-models-pytorch."""

    def make() -> tuple[Any, Any]:
        import segmentation_models_pytorch as library

        return getattr(library, name)("resnet18", encoder_weights=None, classes=2), image(64)

    return make


def volume(side: int = 16) -> Any:
    """A batch of one random volume."""
    import torch

    return torch.randn(1, 1, side, side, side)


def ids() -> dict[str, Any]:
    """Tokens and their attention mask."""
    import torch

    return {"input_ids": tokens(), "attention_mask": torch.ones(1, 12, dtype=torch.long)}


_BERT = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_DISTIL = {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
_SIZE = {"x": (0, 2, 3)}
_DROPS = {"drop_rate": 0.1, "attn_drop_rate": 0.1, "proj_drop_rate": 0.1, "drop_path_rate": 0.1}
ZOO: dict[str, Entry] = {
    "torchvision alexnet": Entry("torchvision", torchvision("alexnet", 96)),
    "torchvision efficientnet_b0": Entry("torchvision", torchvision("efficientnet_b0"), _SIZE),
    "torchvision mobilenet_v3_small": Entry("torchvision", torchvision("mobilenet_v3_small"), _SIZE),
    "torchvision densenet121": Entry("torchvision", torchvision("densenet121", drop_rate=0.2), _SIZE),
    "torchvision googlenet": Entry("torchvision", torchvision("googlenet", 96, init_weights=False, aux_logits=False)),
    "torchvision swin_t": Entry("torchvision", torchvision("swin_t")),
    "timm vit_tiny": Entry("timm", timm("vit_tiny_patch16_224", img_size=64, depth=3, **_DROPS)),
    "timm convnext_atto": Entry("timm", timm("convnext_atto", drop_rate=0.1, drop_path_rate=0.1), _SIZE),
    "timm mobilenetv3": Entry("timm", timm("mobilenetv3_small_050", drop_rate=0.2, drop_path_rate=0.1), _SIZE),
    "timm resnet18": Entry("timm", timm("resnet18", drop_rate=0.3, drop_path_rate=0.1), _SIZE),
    "timm resnet26 dropblock": Entry("timm", timm("resnet26", 128, drop_block_rate=0.1)),
    "timm mixer": Entry("timm", timm("mixer_s32_224", img_size=64, drop_rate=0.1, drop_path_rate=0.1)),
    "transformers bert": Entry("transformers", transformers("Bert", ids, **_BERT, attn_implementation="eager")),
    "transformers bert sdpa": Entry(
        "transformers",
        transformers("Bert", ids, **_BERT, attn_implementation="sdpa"),
        {"input_ids": (0, 1), "attention_mask": (0, 1)},
    ),
    "transformers distilbert": Entry("transformers", transformers("DistilBert", ids, **_DISTIL)),
    "transformers gpt2": Entry(
        "transformers",
        transformers(
            "GPT2", lambda: {"input_ids": tokens()}, vocab_size=99, n_embd=32, n_layer=2, n_head=2, n_positions=64
        ),
        {"input_ids": (0, 1)},
    ),
    "transformers llama": Entry(
        "transformers",
        transformers(
            "Llama",
            lambda: {"input_ids": tokens()},
            **_BERT,
            num_key_value_heads=1,
            attention_dropout=0.1,
        ),
    ),
    "transformers t5": Entry(
        "transformers",
        transformers(
            "T5",
            lambda: {"input_ids": tokens(), "decoder_input_ids": tokens(7)},
            vocab_size=99,
            d_model=32,
            d_kv=16,
            d_ff=64,
            num_layers=2,
            num_heads=2,
        ),
    ),
    "transformers segformer": Entry(
        "transformers",
        transformers(
            "Segformer",
            lambda: {"pixel_values": image(64)},
            depths=[1, 1, 1, 1],
            hidden_sizes=[16, 32, 32, 64],
            num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=32,
            drop_path_rate=0.2,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
        ),
    ),
    "monai unet": Entry("monai", monai("UNet", volume, 3, 1, 2, (8, 16, 32), (2, 2), num_res_units=1, dropout=0.2)),
    "monai segresnet": Entry("monai", monai("SegResNet", lambda: image(32), 2, 8, 3, 2, dropout_prob=0.2)),
    "smp fpn": Entry("segmentation_models_pytorch", segmentation("FPN")),
    "smp deeplabv3+": Entry("segmentation_models_pytorch", segmentation("DeepLabV3Plus")),
}


def measure(entry: Entry, folder: Path) -> dict[str, Any]:
    """Export one model, and compare its passes with those of PyTorch."""
    import torch

    from self2self.live.export import export_live

    torch.manual_seed(0)
    model, inputs = entry.make()
    for parameter in model.parameters():
        # Layers that start at zero would hide the draws before them.
        if not parameter.any() or parameter.abs().max() < 1e-3:
            torch.nn.init.normal_(parameter, std=0.1)
    start = time.perf_counter()
    done = export_live(model, inputs, folder / "model.onnx", dynamic=entry.dynamic)
    draws = len(done.contract.masks)
    row = {"draws": draws, "seconds": time.perf_counter() - start, "onnx": done.onnx_difference}
    row |= {"neutral": done.neutral_difference, "separable": done.contract.separable}
    return row | _compared(model, inputs, folder / "model.onnx")


def _compared(model: Any, inputs: Any, path: Path) -> dict[str, Any]:
    """Difference of the cut graph from the whole one, and of the passes from PyTorch's own dropout."""
    import onnx
    import onnxruntime
    import torch

    from self2self.live.draws import draw_pass
    from self2self.live.model import load_live
    from self2self.live.program import named_tensors
    from self2self.live.watch import find_drawing, undisturbed

    live = load_live(path)
    contract = live.contract
    given = inputs if isinstance(inputs, dict) else {contract.inputs[0].name: inputs}
    arrays = {item.name: value.numpy() for item, value in zip(contract.inputs, given.values(), strict=True)}
    axes = {axis: arrays[name].shape[index] for axis, (name, index) in contract.axes.items()}
    draws = draw_pass(contract, axes, 1, 0)
    session = onnxruntime.InferenceSession(onnx.load(path).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in contract.outputs]
    whole = session.run(names, {**arrays, **draws})
    parts = live.one_pass(arrays, live.once(arrays), draws)
    cut = max(float(np.abs(parts[name] - value).max()) for name, value in zip(names, whole, strict=True))
    found = live.predict(arrays, PASSES).first
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else ((inputs,), {})
    with undisturbed(model):
        find_drawing(model, args, kwargs)
        torch.manual_seed(1)
        runs = [next(iter(named_tensors(model(*args, **kwargs)).values())).numpy() for _ in range(PASSES)]
    passes = np.stack(runs).astype(np.float64)
    mean, std = passes.mean(0), passes.std(0, ddof=1)
    spread = np.sqrt((std**2 + found.std.astype(np.float64) ** 2) / PASSES)
    moving = spread > 1e-9
    return {
        "cut": cut,
        "computed_once": live.computed_once,
        "rms_z": float(np.sqrt(np.mean(((found.mean - mean)[moving] / spread[moving]) ** 2))),
        "std_ratio": float(np.mean(found.std[moving]) / np.mean(std[moving])),
    }


def main() -> None:
    """Export all models whose library is installed, print a row for each, and write the result."""
    from self2self.runtime.engines.registry import is_installed

    parser = result_parser(__doc__)
    parser.add_argument("--only", default="", help="models whose name contains this text")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows: dict[str, Any] = {}
    for name, entry in ZOO.items():
        if args.only not in name or not is_installed(entry.library):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                rows[name] = measure(entry, Path(folder))
            except Exception as error:
                # One model that fails is a result, too.
                traceback.print_exc()
                rows[name] = {"error": f"{type(error).__name__}: {error}"}
        print(name, rows[name], flush=True)
        write_result(args.output, {**provenance("zoo"), "passes": PASSES, "models": rows})
    whole = [row for row in rows.values() if "error" not in row]
    print(f"{len(whole)} of {len(rows)} models, {sum(row['draws'] for row in whole)} draws")


if __name__ == "__main__":
    main()
