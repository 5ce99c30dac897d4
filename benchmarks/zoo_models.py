"""The models of `benchmarks.zoo`: small ones of other libraries with random weights, and networks of our own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Made = tuple[Any, Any]
"""A model and its example inputs."""


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        library: that has to be installed.
        make: returns the model and its example inputs.
        dynamic: as in `export_live`.
    """

    library: str
    make: Callable[[], Made]
    dynamic: dict[str, tuple[int, ...]] = field(default_factory=dict)


def image(side: int = 64, channels: int = 3) -> Any:
    """A batch of one random image."""
    import torch

    return torch.randn(1, channels, side, side)


def volume(side: int = 16) -> Any:
    """A batch of one random volume."""
    import torch

    return torch.randn(1, 1, side, side, side)


def tokens(length: int = 12) -> Any:
    """A batch of one random sequence of 99 kinds of tokens."""
    import torch

    return torch.randint(3, 99, (1, length))


def sequence(*shape: int) -> Any:
    """Random numbers with a first axis of one."""
    import torch

    return torch.randn(1, *shape)


def ids() -> dict[str, Any]:
    """Tokens and their attention mask."""
    import torch

    return {"input_ids": tokens(), "attention_mask": torch.ones(1, 12, dtype=torch.long)}


def torchvision(name: str, side: int = 64, **options: Any) -> Callable[[], Made]:
    """A classifier or a segmenting network of torchvision."""

    def make() -> Made:
        from torchvision import models

        if name in models.list_models(module=models.segmentation):
            options.setdefault("weights_backbone", None)
        return models.get_model(name, weights=None, **options), image(side)

    return make


def of_torchvision(name: str, side: int, *arguments: Any, **options: Any) -> Callable[[], Made]:
    """A small network of one of torchvision's classes."""

    def make() -> Made:
        from torchvision import models

        return getattr(models.maxvit if name == "MaxVit" else models, name)(*arguments, **options), image(side)

    return make


def timm(name: str, side: int = 64, **options: Any) -> Callable[[], Made]:
    """A classifier of timm."""

    def make() -> Made:
        import timm as library

        return library.create_model(name, pretrained=False, **options), image(side)

    return make


_TASKS = {
    **dict.fromkeys(("Albert", "Bert", "DebertaV2", "DistilBert", "Electra", "Roberta"), "ForSequenceClassification"),
    **dict.fromkeys(("ConvNext", "Dinov2", "ViT"), "ForImageClassification"),
    **dict.fromkeys(("T5", "Whisper"), "ForConditionalGeneration"),
    **dict.fromkeys(("Llama", "OPT"), "ForCausalLM"),
    "GPT2": "LMHeadModel",
    "Segformer": "ForSemanticSegmentation",
    "Wav2Vec2": "ForCTC",
}


def transformers(kind: str, inputs: Callable[[], Any], **options: Any) -> Callable[[], Made]:
    """A small model of transformers, of the class and the configuration that begin with `kind`."""

    def make() -> Made:
        import transformers as library

        config = getattr(library, f"{kind}Config")(**options)
        config.use_cache = False
        return getattr(library, kind + _TASKS[kind])(config), inputs()

    return make


def monai(name: str, inputs: Callable[[], Any], *arguments: Any, **options: Any) -> Callable[[], Made]:
    """A network of MONAI."""

    def make() -> Made:
        from monai.networks import nets

        return getattr(nets, name)(*arguments, **options), inputs()

    return make


def segmentation(name: str, **options: Any) -> Callable[[], Made]:
    """A network of segmentation-models-pytorch."""

    def make() -> Made:
        import segmentation_models_pytorch as library

        return getattr(library, name)("resnet18", encoder_weights=None, classes=2, **options), image()

    return make


def own(name: str) -> Entry:
    """A network of the tests, `tests.live.networks`."""

    def make() -> Made:
        from tests.live.networks import CASES

        return CASES[name].make(), CASES[name].inputs

    dynamic = {"unet": _SIZE, "lstm": {"x": (0, 1)}, "encoder": {"src": (0, 1)}, "windows": {"x": (0, 1)}}
    dynamic |= {"returned": {"shift": ()}, "attention": {"x": (0, 1), "keep": (0, 1)}}
    return Entry("torch", make, dynamic.get(name, {}))


_BERT = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_DISTIL = {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
_GPT2 = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
_T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
_WHISPER = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_mel_bins": 16,
    "max_source_positions": 50,
    "max_target_positions": 32,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
_SEGFORMER = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [16, 32, 32, 64],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 32,
    "drop_path_rate": 0.2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
_WAV2VEC = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "vocab_size": 12,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
_SIZE = {"x": (0, 2, 3)}
_PIXELS = {"pixel_values": (0, 2, 3)}
_INPUT = {"input": (0, 2, 3)}
_TEXT = {"input_ids": (0, 1)}
_PAIR = {"input_ids": (0, 1), "attention_mask": (0, 1)}
_DROPS = {"drop_rate": 0.1, "attn_drop_rate": 0.1, "drop_path_rate": 0.1}
_VIT = {"dropout": 0.1, "attention_dropout": 0.1, "num_classes": 10}
_OWN = ("unet", "functional", "called", "alpha", "depth", "dropblock", "attention", "weights", "encoder", "lstm")
_OWN += ("gru", "dropconnect", "noise", "probabilities", "rrelu", "gated", "windows", "returned")

ZOO: dict[str, Entry] = {
    "torchvision alexnet": Entry("torchvision", torchvision("alexnet", 96)),
    "torchvision vgg11": Entry("torchvision", torchvision("vgg11", 32)),
    "torchvision squeezenet1_1": Entry("torchvision", torchvision("squeezenet1_1"), _SIZE),
    "torchvision efficientnet_b0": Entry("torchvision", torchvision("efficientnet_b0"), _SIZE),
    "torchvision convnext_tiny": Entry("torchvision", torchvision("convnext_tiny"), _SIZE),
    "torchvision mobilenet_v3_small": Entry("torchvision", torchvision("mobilenet_v3_small"), _SIZE),
    "torchvision densenet121": Entry("torchvision", torchvision("densenet121", drop_rate=0.2), _SIZE),
    "torchvision googlenet": Entry("torchvision", torchvision("googlenet", 96, init_weights=False, aux_logits=False)),
    "torchvision inception_v3": Entry("torchvision", torchvision("inception_v3", 299, init_weights=False)),
    "torchvision vit": Entry("torchvision", of_torchvision("VisionTransformer", 64, 64, 16, 3, 4, 64, 128, **_VIT)),
    "torchvision swin_t": Entry("torchvision", torchvision("swin_t")),
    "torchvision swin": Entry(
        "torchvision",
        of_torchvision("SwinTransformer", 112, [4, 4], 32, [2, 2], [2, 4], [7, 7], stochastic_depth_prob=0.2, **_VIT),
    ),
    "torchvision maxvit": Entry(
        "torchvision",
        of_torchvision(
            "MaxVit",
            64,
            *((64, 64), 32, 2, [32, 64], [1, 1], 16),
            stochastic_depth_prob=0.2,
            attention_dropout=0.1,
            mlp_dropout=0.1,
            num_classes=10,
        ),
    ),
    "torchvision fcn_resnet50": Entry("torchvision", torchvision("fcn_resnet50", num_classes=5), _SIZE),
    "torchvision fcn_resnet50 aux": Entry("torchvision", torchvision("fcn_resnet50", num_classes=5, aux_loss=True)),
    "torchvision deeplabv3": Entry("torchvision", torchvision("deeplabv3_mobilenet_v3_large", num_classes=5)),
    "timm vit_tiny": Entry(
        "timm", timm("vit_tiny_patch16_224", img_size=64, depth=3, proj_drop_rate=0.1, pos_drop_rate=0.1, **_DROPS)
    ),
    "timm convnext_atto": Entry("timm", timm("convnext_atto", drop_rate=0.1, drop_path_rate=0.1), _SIZE),
    "timm mobilenetv3": Entry("timm", timm("mobilenetv3_small_050", drop_rate=0.2, drop_path_rate=0.1), _SIZE),
    "timm resnet18": Entry("timm", timm("resnet18", drop_rate=0.3, drop_path_rate=0.1), _SIZE),
    "timm resnet26 dropblock": Entry("timm", timm("resnet26", 128, drop_block_rate=0.1)),
    "timm swinv2_cr": Entry("timm", timm("swinv2_cr_tiny_ns_224", img_size=64, window_size=2, **_DROPS)),
    "timm mixer": Entry("timm", timm("mixer_s32_224", img_size=64, drop_rate=0.1, drop_path_rate=0.1)),
    "timm coatnet_nano": Entry("timm", timm("coatnet_nano_rw_224", img_size=64, drop_rate=0.1, drop_path_rate=0.1)),
    "timm eva02": Entry("timm", timm("eva02_tiny_patch14_224", 56, img_size=56, proj_drop_rate=0.1, **_DROPS)),
    "timm deit3": Entry("timm", timm("deit3_small_patch16_224", img_size=64, depth=2, **_DROPS)),
    "transformers bert": Entry("transformers", transformers("Bert", ids, **_BERT, attn_implementation="eager")),
    "transformers bert sdpa": Entry(
        "transformers", transformers("Bert", ids, **_BERT, attn_implementation="sdpa"), _PAIR
    ),
    "transformers roberta": Entry("transformers", transformers("Roberta", ids, **_BERT)),
    "transformers electra": Entry("transformers", transformers("Electra", ids, **_BERT, embedding_size=16)),
    "transformers albert": Entry(
        "transformers",
        transformers(
            "Albert", ids, **_BERT, embedding_size=16, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1
        ),
    ),
    "transformers distilbert": Entry("transformers", transformers("DistilBert", ids, **_DISTIL)),
    "transformers distilbert eager": Entry(
        "transformers", transformers("DistilBert", ids, **_DISTIL, attn_implementation="eager"), _PAIR
    ),
    "transformers deberta-v2": Entry(
        "transformers",
        transformers(
            "DebertaV2", lambda: {"input_ids": tokens()}, **_BERT, relative_attention=True, pos_att_type=["p2c", "c2p"]
        ),
    ),
    "transformers gpt2": Entry("transformers", transformers("GPT2", lambda: {"input_ids": tokens()}, **_GPT2), _TEXT),
    "transformers gpt2 eager": Entry(
        "transformers", transformers("GPT2", lambda: {"input_ids": tokens()}, **_GPT2, attn_implementation="eager")
    ),
    "transformers llama": Entry(
        "transformers",
        transformers("Llama", lambda: {"input_ids": tokens()}, **_BERT, num_key_value_heads=1, attention_dropout=0.1),
    ),
    "transformers opt": Entry(
        "transformers",
        transformers(
            "OPT",
            lambda: {"input_ids": tokens()},
            vocab_size=99,
            hidden_size=32,
            word_embed_proj_dim=32,
            num_hidden_layers=2,
            ffn_dim=64,
            num_attention_heads=2,
            dropout=0.1,
            attention_dropout=0.1,
        ),
    ),
    "transformers t5": Entry(
        "transformers",
        transformers("T5", lambda: {"input_ids": tokens(), "decoder_input_ids": tokens(7)}, **_T5),
    ),
    "transformers whisper": Entry(
        "transformers",
        transformers(
            "Whisper", lambda: {"input_features": sequence(16, 100), "decoder_input_ids": tokens(7)}, **_WHISPER
        ),
    ),
    "transformers whisper eager": Entry(
        "transformers",
        transformers(
            "Whisper",
            lambda: {"input_features": sequence(16, 100), "decoder_input_ids": tokens(7)},
            attn_implementation="eager",
            **_WHISPER,
        ),
    ),
    "transformers wav2vec2": Entry(
        "transformers", transformers("Wav2Vec2", lambda: {"input_values": sequence(4000)}, **_WAV2VEC)
    ),
    "transformers segformer": Entry(
        "transformers", transformers("Segformer", lambda: {"pixel_values": image()}, **_SEGFORMER), _PIXELS
    ),
    "transformers convnext": Entry(
        "transformers",
        transformers(
            "ConvNext",
            lambda: {"pixel_values": image()},
            hidden_sizes=[16, 16, 32, 32],
            depths=[1, 1, 1, 1],
            drop_path_rate=0.2,
            num_labels=4,
        ),
        _PIXELS,
    ),
    "transformers vit": Entry(
        "transformers",
        transformers(
            "ViT",
            lambda: {"pixel_values": image()},
            **{name: value for name, value in _BERT.items() if name != "vocab_size"},
            image_size=64,
            patch_size=16,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
        ),
    ),
    "monai unet": Entry("monai", monai("UNet", volume, 3, 1, 2, (8, 16, 32), (2, 2), num_res_units=1, dropout=0.2)),
    "monai segresnet": Entry("monai", monai("SegResNet", lambda: image(32), 2, 8, 3, 2, dropout_prob=0.2)),
    "monai unetr": Entry(
        "monai",
        monai(
            "UNETR",
            lambda: image(32, 1),
            *(1, 2, (32, 32)),
            feature_size=8,
            hidden_size=48,
            mlp_dim=96,
            num_heads=4,
            spatial_dims=2,
            dropout_rate=0.1,
        ),
    ),
    "monai swinunetr": Entry(
        "monai",
        monai(
            "SwinUNETR",
            lambda: image(64, 1),
            *(1, 2),
            feature_size=12,
            spatial_dims=2,
            drop_rate=0.1,
            attn_drop_rate=0.1,
            dropout_path_rate=0.1,
        ),
    ),
    "monai dynunet": Entry(
        "monai",
        monai("DynUNet", lambda: image(32, 1), 2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], dropout=0.2, filters=[8, 16, 32]),
    ),
    "monai vnet": Entry("monai", monai("VNet", lambda: image(32, 1), 2, 1, 2, dropout_prob_up=(0.2, 0.2))),
    "smp fpn": Entry("segmentation_models_pytorch", segmentation("FPN")),
    "smp deeplabv3+": Entry("segmentation_models_pytorch", segmentation("DeepLabV3Plus")),
    "smp pspnet": Entry("segmentation_models_pytorch", segmentation("PSPNet")),
    "smp unet": Entry("segmentation_models_pytorch", segmentation("Unet", aux_params={"classes": 3, "dropout": 0.5})),
    **{f"own {name}": own(name) for name in _OWN},
}
