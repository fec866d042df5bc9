"""The models of nano, untrained: plain diffusers classes with the variant's sizes.

Weights are float32 and random, from torch's global generator, which the caller seeds.
"""

from typing import Any

from weights.variants import HEAD_DIM, LATENT_CHANNELS, Variant, variant_named

NANO = variant_named("nano")
NANO_I2V = variant_named("nano-i2v")


def new_vae(variant: Variant = NANO) -> Any:
    """A VAE of 2,088,883 parameters, 0.8 million of them in the encoder."""
    from diffusers import AutoencoderKLCogVideoX

    levels = len(variant.vae_channels)
    return AutoencoderKLCogVideoX(
        block_out_channels=variant.vae_channels,
        down_block_types=("CogVideoXDownBlock3D",) * levels,
        up_block_types=("CogVideoXUpBlock3D",) * levels,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=variant.vae_layers_per_block,
        norm_num_groups=variant.vae_norm_groups,
        scaling_factor=variant.vae_scaling_factor,
    )


def new_transformer(variant: Variant = NANO) -> Any:
    """A transformer of 1,678,144 parameters; image to video has 1,686,336."""
    from diffusers import CogVideoXTransformer3DModel

    return CogVideoXTransformer3DModel(
        num_layers=variant.num_layers,
        num_attention_heads=variant.num_heads,
        attention_head_dim=HEAD_DIM,
        in_channels=variant.in_channels,
        out_channels=LATENT_CHANNELS,
        time_embed_dim=variant.time_embed_dim,
        text_embed_dim=variant.text_embed_dim,
        max_text_seq_length=variant.text_tokens,
        sample_frames=variant.sample_frames,
        sample_height=variant.sample_height,
        sample_width=variant.sample_width,
        patch_size=variant.patch_size,
        use_rotary_positional_embeddings=variant.rotary,
    )
