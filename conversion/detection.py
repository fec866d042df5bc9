"""Which variant a checkpoint is, and the settings its diffusers folder needs."""

from dataclasses import dataclass, replace

from conversion.sat_config import SatConfig
from conversion.transformer_rules import TransformerArchitecture, architecture_of
from weights.errors import UserError
from weights.variants import LATENT_CHANNELS, VARIANTS, Variant, variant_named


@dataclass(frozen=True, slots=True)
class Detection:
    """What a transformer checkpoint is.

    `variant` holds the checkpoint's own numbers where they differ from the released ones: shapes
    come first, then `model.yaml`, then the variants table.
    """

    variant: Variant
    architecture: TransformerArchitecture
    exact: bool
    """The numbers are those of the released variant."""


def _same_family(variant: Variant, a: TransformerArchitecture, rotary: bool) -> bool:
    return (
        variant.in_channels == a.in_channels
        and variant.patch_size_t == a.patch_size_t
        and variant.rotary == rotary
    )


def _matches(variant: Variant, a: TransformerArchitecture) -> bool:
    ours = architecture_of(variant)
    return ours == replace(
        a, position_rows=ours.position_rows, rotary_tables=ours.rotary_tables
    ) and (a.position_rows is not None or not variant.learned_positions)


def _family(a: TransformerArchitecture, config: SatConfig | None) -> Variant:
    """The released variant that a checkpoint of other sizes is built like."""
    image_to_video = a.in_channels == 2 * LATENT_CHANNELS
    # Only the plain 1.0 text-to-video models differ in nothing but the way positions enter.
    decided = a.rotary_tables or image_to_video or a.patch_size_t is not None
    if not decided and config is None:
        raise UserError(
            f"The checkpoint has {a.num_layers} layers of width {a.hidden_size}, which is none of "
            f"the released models.",
            "Its tensors do not tell whether it is built like cogvideox-2b or cogvideox-5b.",
            "Give SAT's yaml with --config model.yaml.",
        )
    rotary = decided if config is None else config.rotary
    released = [v for v in VARIANTS.values() if not v.name.startswith("nano")]
    for variant in released:
        if _same_family(variant, a, rotary):
            return variant
    raise UserError(
        f"The checkpoint takes {a.in_channels} latent channels in patches of "
        f"{a.patch_size_t or 1} frame(s), with{'' if rotary else 'out'} rotary embeddings.",
        f"The models known are {', '.join(v.name for v in released)}.",
        "Check that the file, and the yaml if there is one, belong to a CogVideoX model.",
    )


def _check_agreement(a: TransformerArchitecture, config: SatConfig) -> None:
    pairs = {
        "num_layers": (config.num_layers, a.num_layers),
        "hidden_size": (config.hidden_size, a.hidden_size),
        "in_channels": (config.in_channels, a.in_channels),
        "temporal patches": (config.temporal_patches, a.patch_size_t is not None),
    }
    for name, (stated, found) in pairs.items():
        if stated != found:
            raise UserError(
                f"{config.path} says {name} = {stated}, the checkpoint has {found}.",
                "Both must describe the same model.",
                "Give the yaml this checkpoint was trained with.",
            )


def _overridden(a: TransformerArchitecture, name: str) -> Variant:
    variant = variant_named(name)
    if (variant.in_channels, variant.patch_size_t) != (a.in_channels, a.patch_size_t):
        raise UserError(
            f"The checkpoint takes {a.in_channels} latent channels in patches of "
            f"{a.patch_size_t or 1} frame(s).",
            f"{name} takes {variant.in_channels} in patches of {variant.patch_size_t or 1}.",
            "Leave --variant out, or name the right one.",
        )
    return variant


def detect(
    a: TransformerArchitecture, config: SatConfig | None, override: str | None = None
) -> Detection:
    """Tell the variant from the shapes and, where they leave it open, from `model.yaml`.

    `override` names the variant instead; the shapes must still allow it.

    Raises:
        UserError: no variant fits, the shapes leave it open and there is no yaml, or the yaml
            or the override contradicts the shapes.
    """
    if config is not None:
        _check_agreement(a, config)
    released = next((v for v in VARIANTS.values() if _matches(v, a)), None)
    base = _overridden(a, override) if override else released or _family(a, config)
    variant = replace(
        base,
        num_layers=a.num_layers,
        num_heads=a.num_heads,
        time_embed_dim=a.time_embed_dim,
        text_embed_dim=a.text_embed_dim,
        ofs_embed_dim=a.ofs_embed_dim,
    )
    if config is not None:
        variant = replace(
            variant,
            sample_frames=config.sample_frames,
            sample_height=config.sample_height,
            sample_width=config.sample_width,
            text_tokens=config.text_tokens,
            rotary=config.rotary,
            learned_positions=config.learned_positions,
            spatial_interpolation=config.spatial_interpolation,
            vae_scaling_factor=config.vae_scaling_factor,
            snr_shift_scale=config.snr_shift_scale,
        )
    if variant.learned_positions and a.position_rows != variant.position_rows:
        raise UserError(
            f"The learned position table has {a.position_rows} rows.",
            f"{variant.position_rows} are expected for {variant.sample_frames} frames of "
            f"{variant.sample_width}×{variant.sample_height} latents.",
            "Give the yaml this checkpoint was trained with as --config.",
        )
    return Detection(variant, a, base is released)
