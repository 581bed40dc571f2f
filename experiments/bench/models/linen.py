"""Flax Linen: ``apply(variables, x)`` of a module, with all its collections as parameters."""

# Packages of the extra `models` may be absent where types are checked.
# pyright: reportMissingImports=false

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from experiments.bench.models.entry import Entry, Model, drawn, images, tokens


def model(module: nn.Module, *inputs: Any, **static: Any) -> Model:
    """A module that is called with ``inputs`` and keyword arguments that stay."""
    variables = jax.jit(functools.partial(module.init, **static))(jax.random.key(0), *inputs)

    def apply(variables: Any, *inputs: Any) -> Any:
        return module.apply(variables, *inputs, **static)

    return Model(apply, drawn(variables), inputs)


def _flaxmodels_resnet() -> Model:
    import flaxmodels

    module = flaxmodels.ResNet18(output="logits", pretrained=None, normalize=False, num_classes=10)
    return model(module, images(1, 32, 32, 3), train=False)


def _jax_resnet(name: str, **options: Any) -> Callable[[], Model]:
    def make() -> Model:
        import jax_resnet

        norm = functools.partial(nn.BatchNorm, momentum=0.9, use_running_average=True)
        cls = functools.partial(getattr(jax_resnet, name), **options)
        module = cls(stage_sizes=(1, 1, 1), hidden_sizes=(32, 64, 64), n_classes=10, norm_cls=norm)
        return model(module, images(1, 32, 32, 3))

    return make


def _diffusers() -> Model:
    from diffusers.models.unets.unet_2d_condition_flax import FlaxUNet2DConditionModel

    module: Any = FlaxUNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1, attention_head_dim=4, cross_attention_dim=32,
    )  # fmt: skip
    timestep = jax.numpy.array([3])
    return model(module, images(1, 4, 8, 8), timestep, images(1, 6, 32), return_dict=False)


_SMALL = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 64}


def _transformers(
    name: str, config: str, options: dict[str, Any], inputs: Callable[[], dict[str, Any]]
) -> Callable[[], Model]:
    def make() -> Model:
        import transformers

        settings = getattr(transformers, config)(**options)
        whole = getattr(transformers, name)(settings)  # random weights
        given = inputs()

        def apply(params: Any, given: Any) -> Any:
            found = whole(**given, params=params, train=False)
            return {k: v for k, v in found.items() if k in ("logits", "last_hidden_state")}

        return Model(apply, drawn(whole.params), (given,))

    return make


def _text() -> dict[str, Any]:
    return {"input_ids": tokens(2, 16)}


def _whisper() -> dict[str, Any]:
    return {"input_features": images(1, 16, 32), "decoder_input_ids": tokens(1, 8)}


ENTRIES = {
    "ResNet-18 (flaxmodels)": Entry(
        "flaxmodels", ("flaxmodels",), _flaxmodels_resnet, "an image of 32x32"
    ),
    "ResNeXt (jax-resnet)": Entry(
        "jax-resnet", ("jax_resnet",), _jax_resnet("ResNeXt50"), "an image of 32x32"
    ),
    "ResNeSt (jax-resnet)": Entry(
        "jax-resnet", ("jax_resnet",), _jax_resnet("ResNeSt50"), "an image of 32x32"
    ),
    "GPT-2 (transformers)": Entry(
        "transformers",
        ("transformers",),
        _transformers(
            "FlaxGPT2LMHeadModel",
            "GPT2Config",
            {"n_embd": 64, "n_head": 4, "n_layer": 2, "vocab_size": 64, "n_positions": 32},
            _text,
        ),
        "2 x 16 tokens",
    ),
    "BERT (transformers)": Entry(
        "transformers",
        ("transformers",),
        _transformers(
            "FlaxBertForMaskedLM", "BertConfig", {**_SMALL, "intermediate_size": 128}, _text
        ),
        "2 x 16 tokens",
    ),
    "Llama (transformers)": Entry(
        "transformers",
        ("transformers",),
        _transformers(
            "FlaxLlamaForCausalLM",
            "LlamaConfig",
            {**_SMALL, "intermediate_size": 128, "num_key_value_heads": 2},
            _text,
        ),
        "2 x 16 tokens",
    ),
    "Whisper (transformers)": Entry(
        "transformers",
        ("transformers",),
        _transformers(
            "FlaxWhisperForConditionalGeneration",
            "WhisperConfig",
            {
                "vocab_size": 64,
                "d_model": 64,
                "encoder_layers": 2,
                "decoder_layers": 2,
                "encoder_attention_heads": 4,
                "decoder_attention_heads": 4,
                "encoder_ffn_dim": 128,
                "decoder_ffn_dim": 128,
                "num_mel_bins": 16,
                "max_source_positions": 16,
                "max_target_positions": 16,
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "decoder_start_token_id": 1,
                "suppress_tokens": None,
                "begin_suppress_tokens": None,
            },
            _whisper,
        ),
        "32 frames, 8 tokens",
    ),
    "ViT (transformers)": Entry(
        "transformers",
        ("transformers",),
        _transformers(
            "FlaxViTForImageClassification",
            "ViTConfig",
            {
                "hidden_size": 64,
                "num_attention_heads": 4,
                "num_hidden_layers": 2,
                "intermediate_size": 128,
                "image_size": 32,
                "patch_size": 8,
            },
            lambda: {"pixel_values": images(1, 3, 32, 32)},
        ),
        "an image of 32x32",
    ),
    "UNet (diffusers)": Entry("diffusers", ("diffusers",), _diffusers, "a latent of 8x8, 6 words"),
}
