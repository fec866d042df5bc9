"""The one table of what each CogVideoX variant is.

Architecture numbers and rules are those of the released SAT configurations
(zai-org/CogVideo, `sat/configs/*.yaml`) and of the model cards.
"""

from dataclasses import dataclass, replace
from typing import Literal

from weights.errors import UserError

Task = Literal["t2v", "i2v"]
Dtype = Literal["float16", "bfloat16", "float32"]

LATENT_CHANNELS = 16
HEAD_DIM = 64
SPATIAL_COMPRESSION = 8
TEMPORAL_COMPRESSION = 4
# The classes of diffusers.
PIPELINES: dict[Task, str] = {
    "t2v": "CogVideoXPipeline",
    "i2v": "CogVideoXImageToVideoPipeline",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One released model: its architecture, the rules of its inputs and how it is served."""

    name: str
    task: Task
    licence: str
    repository: str | None = None
    """Where Z.ai has released it on Hugging Face; None: it has not."""

    # Transformer. Latent sizes are (frames, height, width) before patching.
    num_layers: int
    num_heads: int
    time_embed_dim: int = 512
    text_embed_dim: int = 4096
    text_tokens: int = 226
    in_channels: int = LATENT_CHANNELS
    patch_size: int = 2
    patch_size_t: int | None = None
    rotary: bool = True
    learned_positions: bool = False
    spatial_interpolation: float = 1.0
    ofs_embed_dim: int | None = None
    sample_frames: int = 49
    sample_height: int = 60
    sample_width: int = 90

    # VAE.
    vae_channels: tuple[int, ...] = (128, 256, 256, 512)
    vae_layers_per_block: int = 3
    vae_norm_groups: int = 32
    vae_scaling_factor: float = 0.7
    invert_scale_latents: bool = False

    # Sampling. The scheduler is the one that the released pipeline names.
    scheduler: str = "CogVideoXDDIMScheduler"
    snr_shift_scale: float = 1.0
    dtype: Dtype = "bfloat16"

    # What a request may ask for. Sizes are in pixels. Where any aspect is legal, the longer side
    # may be as short as the other, in steps of whole patches, and the video may stand upright.
    width: int = 720
    height: int = 480
    any_aspect: bool = False
    fps: int = 8
    frame_step: int = 8
    min_frames: int = 9
    max_frames: int = 49
    default_frames: int = 49

    @property
    def hidden_size(self) -> int:
        return self.num_heads * HEAD_DIM

    @property
    def position_rows(self) -> int:
        """Rows of a learned position table: the text tokens, then every patch of every frame."""
        latent_frames = (self.sample_frames - 1) // TEMPORAL_COMPRESSION + 1
        patches = (self.sample_height // self.patch_size) * (self.sample_width // self.patch_size)
        return self.text_tokens + latent_frames * patches

    @property
    def legal_sizes(self) -> tuple[tuple[int, int], ...]:
        """Every (width, height) the model was made for, its own first."""
        if not self.any_aspect:
            return ((self.width, self.height),)
        short, step = self.height, self.patch_size * SPATIAL_COMPRESSION
        landscape = [(side, short) for side in range(self.width, short - 1, -step)]
        return tuple(landscape + [(short, side) for side, _ in landscape if side != short])

    @property
    def legal_frames(self) -> tuple[int, ...]:
        """Every frame count the model was made for; all others give gibberish."""
        return tuple(range(self.min_frames, self.max_frames + 1, self.frame_step))


_2B = Variant(
    name="cogvideox-2b",
    task="t2v",
    licence="Apache-2.0",
    repository="zai-org/CogVideoX-2b",
    num_layers=30,
    num_heads=30,
    rotary=False,
    spatial_interpolation=1.875,
    vae_scaling_factor=1.15258426,
    snr_shift_scale=3.0,
    dtype="float16",
)
_5B = Variant(
    name="cogvideox-5b",
    task="t2v",
    licence="CogVideoX License",
    repository="zai-org/CogVideoX-5b",
    num_layers=42,
    num_heads=48,
    scheduler="CogVideoXDPMScheduler",
)
_5B_I2V = replace(
    _5B,
    name="cogvideox-5b-i2v",
    task="i2v",
    repository="zai-org/CogVideoX-5b-I2V",
    in_channels=2 * LATENT_CHANNELS,
    learned_positions=True,
    scheduler="CogVideoXDDIMScheduler",
    min_frames=49,
)
_1_5_5B = replace(
    _5B,
    name="cogvideox1.5-5b",
    repository="zai-org/CogVideoX1.5-5B",
    text_tokens=224,
    patch_size_t=2,
    sample_frames=81,
    sample_height=300,
    sample_width=300,
    invert_scale_latents=True,
    scheduler="CogVideoXDDIMScheduler",
    width=1360,
    height=768,
    fps=16,
    frame_step=16,
    min_frames=17,
    max_frames=161,
    default_frames=81,
)
_1_5_5B_I2V = replace(
    _1_5_5B,
    name="cogvideox1.5-5b-i2v",
    task="i2v",
    repository="zai-org/CogVideoX1.5-5B-I2V",
    in_channels=2 * LATENT_CHANNELS,
    ofs_embed_dim=512,
    any_aspect=True,
)
_NANO = Variant(
    name="nano",
    task="t2v",
    licence="Apache-2.0 (this repository)",
    num_layers=4,
    num_heads=2,
    time_embed_dim=128,
    text_embed_dim=64,
    text_tokens=16,
    rotary=False,
    sample_frames=9,
    sample_height=8,
    sample_width=8,
    vae_channels=(16, 32, 32, 64),
    vae_layers_per_block=1,
    vae_norm_groups=8,
    vae_scaling_factor=1.0,
    scheduler="CogVideoXDPMScheduler",
    dtype="float32",
    width=64,
    height=64,
    max_frames=9,
    default_frames=9,
)
_NANO_I2V = replace(_NANO, name="nano-i2v", task="i2v", in_channels=2 * LATENT_CHANNELS)

VARIANTS: dict[str, Variant] = {
    variant.name: variant for variant in (_2B, _5B, _5B_I2V, _1_5_5B, _1_5_5B_I2V, _NANO, _NANO_I2V)
}


def variant_named(name: str) -> Variant:
    """Look a variant up by name.

    Raises:
        UserError: there is no variant of that name.
    """
    try:
        return VARIANTS[name]
    except KeyError:
        raise UserError(
            f"There is no variant named {name!r}.",
            f"The variants are {', '.join(VARIANTS)}.",
            "Use one of these names.",
        ) from None
