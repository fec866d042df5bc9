"""The config files of a diffusers folder, as `save_pretrained` of diffusers 0.42 writes them."""

from importlib.metadata import version
from typing import Any

from conversion.vae_rules import VaeArchitecture
from weights.variants import HEAD_DIM, LATENT_CHANNELS, PIPELINES, TEMPORAL_COMPRESSION, Variant

Config = dict[str, Any]


def _diffusers_version() -> Config:
    return {"_diffusers_version": version("diffusers")}


def transformer_config(variant: Variant) -> Config:
    """`transformer/config.json`."""
    return {
        "_class_name": "CogVideoXTransformer3DModel",
        **_diffusers_version(),
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": HEAD_DIM,
        "dropout": 0.0,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": variant.in_channels,
        "max_text_seq_length": variant.text_tokens,
        "norm_elementwise_affine": True,
        # SAT has 1e-6 in the last norm and 1e-5 in all others; diffusers has one number for all.
        "norm_eps": 1e-05,
        "num_attention_heads": variant.num_heads,
        "num_layers": variant.num_layers,
        "ofs_embed_dim": variant.ofs_embed_dim,
        "out_channels": LATENT_CHANNELS,
        "patch_bias": variant.patch_size_t is None,
        "patch_size": variant.patch_size,
        "patch_size_t": variant.patch_size_t,
        "sample_frames": variant.sample_frames,
        "sample_height": variant.sample_height,
        "sample_width": variant.sample_width,
        "spatial_interpolation_scale": variant.spatial_interpolation,
        "temporal_compression_ratio": TEMPORAL_COMPRESSION,
        "temporal_interpolation_scale": 1.0,
        "text_embed_dim": variant.text_embed_dim,
        "time_embed_dim": variant.time_embed_dim,
        "timestep_activation_fn": "silu",
        "use_learned_positional_embeddings": variant.learned_positions,
        "use_rotary_positional_embeddings": variant.rotary,
    }


def vae_config(variant: Variant, a: VaeArchitecture) -> Config:
    """`vae/config.json`."""
    levels = len(a.channels)
    return {
        "_class_name": "AutoencoderKLCogVideoX",
        **_diffusers_version(),
        "act_fn": "silu",
        "block_out_channels": list(a.channels),
        "down_block_types": ["CogVideoXDownBlock3D"] * levels,
        "force_upcast": True,
        "in_channels": 3,
        "invert_scale_latents": variant.invert_scale_latents,
        "latent_channels": a.latent_channels,
        "latents_mean": None,
        "latents_std": None,
        "layers_per_block": a.layers_per_block,
        "norm_eps": 1e-06,
        "norm_num_groups": variant.vae_norm_groups,
        "out_channels": 3,
        "sample_height": 480,
        "sample_width": 720,
        "scaling_factor": variant.vae_scaling_factor,
        "shift_factor": None,
        "temporal_compression_ratio": TEMPORAL_COMPRESSION,
        "up_block_types": ["CogVideoXUpBlock3D"] * levels,
        "use_post_quant_conv": False,
        "use_quant_conv": False,
    }


def scheduler_config(variant: Variant) -> Config:
    """`scheduler/scheduler_config.json`: SAT's 1000-step schedule, "trailing" as SAT samples."""
    return {
        "_class_name": variant.scheduler,
        **_diffusers_version(),
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "clip_sample_range": 1.0,
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "sample_max_value": 1.0,
        "set_alpha_to_one": True,
        "snr_shift_scale": variant.snr_shift_scale,
        "steps_offset": 0,
        "timestep_spacing": "trailing",
        "trained_betas": None,
    }


def model_index(variant: Variant, *, with_text_encoder: bool) -> Config:
    """`model_index.json`, which names the pipeline and the class of each part."""
    absent = [None, None]
    return {
        "_class_name": PIPELINES[variant.task],
        **_diffusers_version(),
        "scheduler": ["diffusers", variant.scheduler],
        "text_encoder": ["transformers", "T5EncoderModel"] if with_text_encoder else absent,
        "tokenizer": ["transformers", "T5Tokenizer"] if with_text_encoder else absent,
        "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }
