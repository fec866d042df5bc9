"""A pipeline of any variant at its full size with random weights, made on the spot.

Latency and memory do not depend on what the weights are, so that nothing has to be downloaded.
"""

from typing import TYPE_CHECKING, Any

from weights.variants import (
    HEAD_DIM,
    LATENT_CHANNELS,
    PIPELINES,
    TEMPORAL_COMPRESSION,
    Dtype,
    Variant,
)

if TYPE_CHECKING:
    import torch

# google/t5-v1_1-xxl, whose encoder all released variants share; nano's is as small as itself.
_T5_XXL = {"vocab_size": 32128, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
_T5_NANO = {"vocab_size": 266, "d_kv": 32, "d_ff": 128, "num_layers": 1, "num_heads": 2}
_PIECES = ("<pad>", "</s>", "<unk>", *"▁abcdefghijklmnopqrstuvwxyz")


def random_pipeline(variant: Variant, *, device: str, dtype: Dtype, seed: int = 0) -> Any:
    """The diffusers pipeline of `variant`, every part on `device` in `dtype`.

    The values are drawn on the GPU where there is one, whatever `device` is: 10 billion of them
    take a second there and minutes on a CPU. The same machine draws the same ones again.
    """
    import torch

    drawn_on = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(drawn_on).manual_seed(seed)
    pipe = empty_pipeline(variant)
    for part in (pipe.transformer, pipe.text_encoder, pipe.vae):
        _fill(part, generator, device, getattr(torch, dtype))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def empty_pipeline(variant: Variant) -> Any:
    """The pipeline of `variant` with its parameters on the meta device: shapes without values."""
    import accelerate
    import diffusers
    import torch
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    t5 = _T5_NANO if variant.text_embed_dim < 4096 else _T5_XXL
    # Buffers keep their values: the positions that are computed, not learned, are one.
    with accelerate.init_empty_weights():
        transformer = diffusers.CogVideoXTransformer3DModel(**_transformer_numbers(variant))
        vae = diffusers.AutoencoderKLCogVideoX(**_vae_numbers(variant))
    # Here accelerate's way would make two parameters of the one embedding that the T5 ties.
    with torch.device("meta"):
        text_encoder = T5EncoderModel(
            T5Config(d_model=variant.text_embed_dim, feed_forward_proj="gated-gelu", **t5)
        )
    return getattr(diffusers, PIPELINES[variant.task])(
        tokenizer=T5Tokenizer(vocab=[(piece, -1.0) for piece in _PIECES], extra_ids=0),
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer,
        scheduler=getattr(diffusers, variant.scheduler)(
            beta_schedule="scaled_linear",
            clip_sample=False,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=variant.snr_shift_scale,
            timestep_spacing="trailing",
        ),
    )


def _transformer_numbers(variant: Variant) -> dict[str, Any]:
    return {
        "num_attention_heads": variant.num_heads,
        "attention_head_dim": HEAD_DIM,
        "in_channels": variant.in_channels,
        "out_channels": LATENT_CHANNELS,
        "time_embed_dim": variant.time_embed_dim,
        "ofs_embed_dim": variant.ofs_embed_dim,
        "text_embed_dim": variant.text_embed_dim,
        "num_layers": variant.num_layers,
        "sample_width": variant.sample_width,
        "sample_height": variant.sample_height,
        "sample_frames": variant.sample_frames,
        "patch_size": variant.patch_size,
        "patch_size_t": variant.patch_size_t,
        "patch_bias": variant.patch_size_t is None,
        "temporal_compression_ratio": TEMPORAL_COMPRESSION,
        "max_text_seq_length": variant.text_tokens,
        "spatial_interpolation_scale": variant.spatial_interpolation,
        "use_rotary_positional_embeddings": variant.rotary,
        "use_learned_positional_embeddings": variant.learned_positions,
    }


def _vae_numbers(variant: Variant) -> dict[str, Any]:
    levels = len(variant.vae_channels)
    return {
        "block_out_channels": variant.vae_channels,
        "down_block_types": ("CogVideoXDownBlock3D",) * levels,
        "up_block_types": ("CogVideoXUpBlock3D",) * levels,
        "layers_per_block": variant.vae_layers_per_block,
        "latent_channels": LATENT_CHANNELS,
        "norm_num_groups": variant.vae_norm_groups,
        "temporal_compression_ratio": TEMPORAL_COMPRESSION,
        "scaling_factor": variant.vae_scaling_factor,
        "invert_scale_latents": variant.invert_scale_latents,
    }


def _fill(
    model: "torch.nn.Module", generator: "torch.Generator", device: str, dtype: "torch.dtype"
) -> None:
    """Give each parameter of `model` values on `device`: normal ones, norms 1, biases 0.

    A layer's outputs are spread as its inputs are (LeCun's initialisation): values stay far below
    float16's 65504 through all layers of every variant, and each layer has a say in the result.
    """
    import torch

    # transformers keeps these in float32 when it loads a model as float16.
    kept = getattr(model, "_keep_in_fp32_modules", None) or ()
    filled: dict[int, torch.nn.Parameter] = {}
    for path, module in model.named_modules():
        in_float32 = dtype == torch.float16 and not set(kept).isdisjoint(path.split("."))
        own_dtype = torch.float32 if in_float32 else dtype
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            # A tied parameter is one object in several places, and stays one.
            if id(parameter) not in filled:
                values = torch.empty(parameter.shape, dtype=own_dtype, device=generator.device)
                if parameter.ndim > 1:
                    inputs = values[0].numel()
                    values.normal_(std=inputs**-0.5, generator=generator)
                else:
                    values.fill_(1.0 if name == "weight" else 0.0)
                filled[id(parameter)] = torch.nn.Parameter(values.to(device), requires_grad=False)
            module._parameters[name] = filled[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                # Those that no file holds keep the dtype that they were computed in.
                computed = name in module._non_persistent_buffers_set
                module._buffers[name] = buffer.to(device, buffer.dtype if computed else dtype)
    model.eval()
