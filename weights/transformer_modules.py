"""The modules of a CogVideoX transformer that have a weight matrix, by diffusers' names.

These are what a LoRA can change: every linear layer and the convolution that embeds the patches of
CogVideoX 1.0 (diffusers, `CogVideoXTransformer3DModel`). Norms have vectors only.
"""

from weights.variants import LATENT_CHANNELS, Variant

Shape = tuple[int, ...]


def block_modules(variant: Variant) -> dict[str, Shape]:
    """The weight shapes, (rows, columns), of the modules of one transformer block."""
    d, t = variant.hidden_size, variant.time_embed_dim
    return {
        "norm1.linear": (6 * d, t),
        "attn1.to_q": (d, d),
        "attn1.to_k": (d, d),
        "attn1.to_v": (d, d),
        "attn1.to_out.0": (d, d),
        "norm2.linear": (6 * d, t),
        "ff.net.0.proj": (4 * d, d),
        "ff.net.2": (d, 4 * d),
    }


def outer_modules(variant: Variant) -> dict[str, Shape]:
    """The weight shapes of the modules around the blocks.

    (rows, columns), or (rows, channels, height, width) where patches are embedded by a convolution.
    """
    d, t, patch = variant.hidden_size, variant.time_embed_dim, variant.patch_size
    volume = patch**2 * (variant.patch_size_t or 1)
    shapes: dict[str, Shape] = {
        "patch_embed.proj": (d, variant.in_channels, patch, patch)
        if variant.patch_size_t is None
        else (d, variant.in_channels * volume),
        "patch_embed.text_proj": (d, variant.text_embed_dim),
        "time_embedding.linear_1": (t, d),
        "time_embedding.linear_2": (t, t),
        "norm_out.linear": (2 * d, t),
        "proj_out": (volume * LATENT_CHANNELS, d),
    }
    if variant.ofs_embed_dim is not None:
        ofs = variant.ofs_embed_dim
        shapes |= {"ofs_embedding.linear_1": (ofs, ofs), "ofs_embedding.linear_2": (ofs, ofs)}
    return shapes


def module_shapes(variant: Variant) -> dict[str, Shape]:
    """The weight shapes of all modules; those of a block are `transformer_blocks.N.MODULE`."""
    block = block_modules(variant)
    return outer_modules(variant) | {
        f"transformer_blocks.{n}.{module}": shape
        for n in range(variant.num_layers)
        for module, shape in block.items()
    }
