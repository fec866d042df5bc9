"""The keys of the CogVideoX transformer, SAT on the left and diffusers on the right.

Facts from the SAT model (zai-org/CogVideo, `sat/dit_video_concat.py`) and from diffusers'
`CogVideoXTransformer3DModel`. Three pairs of names cross: SAT's `final_layernorm` is diffusers'
`norm_final`, SAT's `final_layer.norm_final` is `norm_out.norm`, SAT's `final_layer.linear` is
`proj_out`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from conversion.rules import Drop, Rule, Shape, regroup, rename, split
from weights.errors import UserError
from weights.variants import HEAD_DIM, Variant

PREFIX = "model.diffusion_model."

# SAT keeps the modulations of an image layer as shift, scale, gate of the attention, then of the
# MLP, first for the image and then for the text tokens; diffusers groups them by norm.
_NORM1_CHUNKS = (0, 1, 2, 6, 7, 8)
_NORM2_CHUNKS = (3, 4, 5, 9, 10, 11)


@dataclass(frozen=True, slots=True)
class TransformerArchitecture:
    """The numbers that the shapes of a transformer's tensors tell."""

    num_layers: int
    hidden_size: int
    time_embed_dim: int
    text_embed_dim: int
    in_channels: int
    out_channels: int
    patch_size: int
    patch_size_t: int | None
    ofs_embed_dim: int | None
    position_rows: int | None
    """Rows of the position table, if the file has one (text tokens and video tokens)."""
    rotary_tables: bool
    """The file carries the buffers of rotary embeddings; a file without may still be rotary."""

    @property
    def num_heads(self) -> int:
        return self.hidden_size // HEAD_DIM

    @property
    def patch_volume(self) -> int:
        return self.patch_size**2 * (self.patch_size_t or 1)


def architecture_of(variant: Variant) -> TransformerArchitecture:
    """The architecture that the variants table states."""
    return TransformerArchitecture(
        num_layers=variant.num_layers,
        hidden_size=variant.hidden_size,
        time_embed_dim=variant.time_embed_dim,
        text_embed_dim=variant.text_embed_dim,
        in_channels=variant.in_channels,
        out_channels=16,
        patch_size=variant.patch_size,
        patch_size_t=variant.patch_size_t,
        ofs_embed_dim=variant.ofs_embed_dim,
        position_rows=variant.position_rows if variant.learned_positions else None,
        rotary_tables=False,
    )


def read_architecture(shapes: Mapping[str, Shape]) -> TransformerArchitecture:
    """Read the architecture from names (without prefix) and shapes.

    Raises:
        UserError: a tensor that every CogVideoX transformer has is missing.
    """
    try:
        patch = shapes["mixins.patch_embed.proj.weight"]
        time_embed_dim = shapes["time_embed.0.weight"][0]
        text_embed_dim = shapes["mixins.patch_embed.text_proj.weight"][1]
        final_rows = shapes["mixins.final_layer.linear.weight"][0]
    except KeyError as missing:
        raise UserError(
            f"The checkpoint has no tensor {PREFIX}{missing.args[0]}.",
            "Every CogVideoX transformer has it.",
            "Check that the file is a CogVideoX transformer saved by SAT.",
        ) from None
    layers = [
        int(m[1]) for name in shapes if (m := re.match(r"transformer\.layers\.(\d+)\.", name))
    ]
    # 1.0 embeds 2×2 patches by a convolution, 1.5 embeds 2×2×2 patches by a linear layer.
    patch_size, patch_size_t = (patch[2], None) if len(patch) == 4 else (2, 2)
    volume = patch_size**2 * (patch_size_t or 1)
    return TransformerArchitecture(
        num_layers=max(layers, default=-1) + 1,
        hidden_size=patch[0],
        time_embed_dim=time_embed_dim,
        text_embed_dim=text_embed_dim,
        in_channels=patch[1] if patch_size_t is None else patch[1] // volume,
        out_channels=final_rows // volume,
        patch_size=patch_size,
        patch_size_t=patch_size_t,
        ofs_embed_dim=shapes.get("ofs_embed.0.weight", (0, None))[1],
        position_rows=shapes.get("mixins.pos_embed.pos_embedding", (0, None))[1],
        rotary_tables="mixins.pos_embed.freqs_sin" in shapes,
    )


def _with_bias(source: str, target: str, rows: int, *rest: int) -> list[Rule]:
    return [
        rename(f"{source}.weight", f"{target}.weight", rows, *rest),
        rename(f"{source}.bias", f"{target}.bias", rows),
    ]


def _layer_rules(n: int, d: int, t: int) -> list[Rule]:
    sat, block = f"transformer.layers.{n}", f"transformer_blocks.{n}"
    adaln = "mixins.adaln_layer"
    rules = [
        *_with_bias(f"{sat}.attention.dense", f"{block}.attn1.to_out.0", d, d),
        *_with_bias(f"{sat}.mlp.dense_h_to_4h", f"{block}.ff.net.0.proj", 4 * d, d),
        *_with_bias(f"{sat}.mlp.dense_4h_to_h", f"{block}.ff.net.2", d, 4 * d),
        *_with_bias(f"{sat}.input_layernorm", f"{block}.norm1.norm", d),
        *_with_bias(f"{sat}.post_attention_layernorm", f"{block}.norm2.norm", d),
        *_with_bias(f"{adaln}.query_layernorm_list.{n}", f"{block}.attn1.norm_q", HEAD_DIM),
        *_with_bias(f"{adaln}.key_layernorm_list.{n}", f"{block}.attn1.norm_k", HEAD_DIM),
    ]
    for part, qkv_shape, modulation_shape in (
        ("weight", (3 * d, d), (12 * d, t)),
        ("bias", (3 * d,), (12 * d,)),
    ):
        qkv = [f"{block}.attn1.to_{letter}.{part}" for letter in "qkv"]
        norms = {
            f"{block}.norm1.linear.{part}": _NORM1_CHUNKS,
            f"{block}.norm2.linear.{part}": _NORM2_CHUNKS,
        }
        rules += [
            split(f"{sat}.attention.query_key_value.{part}", qkv, *qkv_shape),
            regroup(f"{adaln}.adaLN_modulations.{n}.1.{part}", norms, *modulation_shape),
        ]
    return rules


def transformer_rules(a: TransformerArchitecture, *, learned_positions: bool) -> list[Rule | Drop]:
    """The table for one architecture.

    `learned_positions` tells a position table that was trained (5b-i2v) from one that only holds
    sines and cosines (2b), which diffusers computes itself.
    """
    d, t = a.hidden_size, a.time_embed_dim
    volume = a.patch_volume
    patch: Shape = (a.patch_size, a.patch_size) if a.patch_size_t is None else ()
    columns = a.in_channels if a.patch_size_t is None else a.in_channels * volume
    rules: list[Rule | Drop] = [
        *_with_bias("mixins.patch_embed.proj", "patch_embed.proj", d, columns, *patch),
        *_with_bias("mixins.patch_embed.text_proj", "patch_embed.text_proj", d, a.text_embed_dim),
        *_with_bias("time_embed.0", "time_embedding.linear_1", t, d),
        *_with_bias("time_embed.2", "time_embedding.linear_2", t, t),
        *_with_bias("transformer.final_layernorm", "norm_final", d),
        *_with_bias("mixins.final_layer.norm_final", "norm_out.norm", d),
        *_with_bias("mixins.final_layer.adaLN_modulation.1", "norm_out.linear", 2 * d, t),
        *_with_bias("mixins.final_layer.linear", "proj_out", volume * a.out_channels, d),
        Drop("mixins.pos_embed.freqs_sin"),
        Drop("mixins.pos_embed.freqs_cos"),
        Drop("transformer.position_embedding*"),
        Drop("transformer.word_embeddings*"),
    ]
    if a.ofs_embed_dim is not None:
        o = a.ofs_embed_dim
        rules += _with_bias("ofs_embed.0", "ofs_embedding.linear_1", o, o)
        rules += _with_bias("ofs_embed.2", "ofs_embedding.linear_2", o, o)
    position_table = "mixins.pos_embed.pos_embedding"
    if learned_positions and a.position_rows is not None:
        table = (1, a.position_rows, d)
        rules.append(rename(position_table, "patch_embed.pos_embedding", *table))
    else:
        rules.append(Drop(position_table))
    for n in range(a.num_layers):
        rules += _layer_rules(n, d, t)
    return rules
