"""The memory that a fine-tuning takes on a GPU, stage by stage. Arithmetic only, no torch.

Each stage has its models alone on the GPU: T5 encodes the prompts, the VAE the clips (nine frames
and then eight at once), then the transformer is trained, with the VAE beside it for image-to-video
and for validation clips. Frozen weights have the dtype that the transformer computes in, what is
trained has float32, as its gradients have. With --full several GPUs are taken to share that by
FSDP; of a LoRA each has its own copy (DDP).

Not counted are what the allocator loses to fragmentation, the workspaces of cuDNN and cuBLAS, and
CUDA's own context, which is not in the free memory that a GPU tells once it is there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from predictors.memory_estimate import (
    ITEM_BYTES,
    ComponentSizes,
    Stages,
    VideoSize,
    variant_sizes,
    working_memory,
)
from predictors.weight_shapes import variant_shapes
from training.finetuning.activation_memory import lora_modules, pass_memory, sampling_memory
from training.finetuning.settings import FinetuneSettings, Precision
from weights.variants import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION, Dtype, Variant

_DTYPES: Mapping[Precision, Dtype] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

# Bytes for each trained parameter: AdamW's two averages in 32 bits, or in 8 with a float32 scale
# for every 256 values (torchao). A step of either takes nothing beside.
_ADAMW, _ADAMW_8_BIT = 8.0, 2 + 2 * 4 / 256
# Values for each pixel and channel of the VAE's outermost block, where a clip is a picture, one
# part of nine frames, or more parts.
_PICTURE_VALUES, _PART_VALUES, _PARTS_VALUES = 20.9, 59.1, 74.5
_FIRST_PART, _PART = 9, 8
# diffusers computes a convolution of more than 2 GiB in pieces and joins them. Its input has two
# more frames than the part.
_LARGE, _LARGE_VALUES = 2 << 30, 15.0
# diffusers' tiles, in pixels.
_TILE_HEIGHT, _TILE_WIDTH = 240, 360
# cuBLAS's on the newest cards, and small change.
_WORKSPACE = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """A training to estimate: what it trains, how, on clips of which size, on how many GPUs."""

    variant: Variant
    settings: FinetuneSettings
    frames: int
    width: int
    height: int
    processes: int = 1

    @property
    def dtype(self) -> Dtype:
        """What the transformer computes in, on a GPU."""
        precision = self.settings.precision
        return self.variant.dtype if precision == "auto" else _DTYPES[precision]

    @property
    def mixed(self) -> bool:
        """Whether it computes in 16 bits with what is trained in 32."""
        return ITEM_BYTES[self.dtype] == 2

    @property
    def shards(self) -> int:
        """How many parts the trained weights are in, each on a GPU of its own."""
        return self.processes if self.settings.full else 1

    @property
    def video(self) -> VideoSize:
        return VideoSize(self.frames, self.width, self.height)

    @property
    def tokens(self) -> int:
        """Of one clip: of its text and of the patches of all latent frames, padding included."""
        variant = self.variant
        latent_frames = (self.frames - 1) // TEMPORAL_COMPRESSION + 1
        patch_frames = -(-latent_frames // (variant.patch_size_t or 1))
        side = SPATIAL_COMPRESSION * variant.patch_size
        return variant.text_tokens + patch_frames * (self.height // side) * (self.width // side)

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        if self.settings.full:
            return _transformer_parameters(self.variant)
        pairs = lora_modules(self.settings, self.variant).values()
        return self.variant.num_layers * self.settings.rank * sum(map(sum, pairs))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory:
    """Bytes of one GPU's memory that a training takes.

    `encode_prompts`, `encode_clips`, `step` and `validation` are stages at their peak, with all
    that is on the GPU then. The others are parts of `step`; gradients and activations are not
    always there at once in full.
    """

    plan: TrainingPlan
    encode_prompts: int
    encode_clips: int
    step: int
    validation: int
    """0 if there is none."""
    weights: int
    """What is frozen, with the VAE where it is needed."""
    trained: int
    optimizer: int
    average: int
    gradients: int
    activations: int
    """With the 16-bit copies that autocast makes of what is trained."""

    @property
    def peak(self) -> int:
        """The most that is taken at once."""
        return max(self.encode_prompts, self.encode_clips, self.step, self.validation)


def training_memory(plan: TrainingPlan) -> TrainingMemory:
    """What each GPU needs for `plan`."""
    settings, variant = plan.settings, plan.variant
    stored = _sizes(variant, variant.dtype)
    per_parameter = _ADAMW_8_BIT if settings.eight_bit_optimizer else _ADAMW
    state = {
        "weights": _frozen(plan),
        "trained": _share(plan, 4),
        "optimizer": _share(plan, per_parameter),
        "average": _share(plan, 4) if settings.ema_decay else 0,
    }
    # DDP sends gradients from buckets of their own.
    gradients = _share(plan, 4) * (2 if plan.processes > plan.shards else 1)
    held = sum(state.values()) + _gathered(plan) + _WORKSPACE
    activations, step = _step(plan, gradients)
    return TrainingMemory(
        plan=plan,
        encode_prompts=stored.text_encoder.total + _stages(plan).encode_prompt + _WORKSPACE,
        encode_clips=stored.vae.total + _encoding(plan) + _WORKSPACE,
        step=held + step,
        validation=held + _sampling(plan) if settings.validate_every else 0,
        gradients=gradients,
        activations=activations,
        **state,
    )


def _step(plan: TrainingPlan, gradients: int) -> tuple[int, int]:
    """The most activations of a step, and what it takes with gradients and all at its peak."""
    settings = plan.settings
    passes = pass_memory(
        plan.variant, settings, tokens=plan.tokens, mixed=plan.mixed, copies=_copies(plan)
    )
    # From one pass of a step to the next gradients stay; DDP and FSDP have their place for them.
    before = gradients if settings.accumulate > 1 or plan.processes > 1 else 0
    moments = (
        before + _stages(plan).encode_image,
        before + passes.forward_ends,
        before + passes.backward_begins,
        gradients + passes.backward_ends,
    )
    return max(passes), max(moments)


def _sampling(plan: TrainingPlan) -> int:
    """What a validation clip takes; the VAE decodes it in tiles."""
    passes = sampling_memory(
        plan.variant, tokens=plan.tokens, mixed=plan.mixed, copies=_copies(plan)
    )
    return max(passes, _stages(plan, vae_tiling=True).decode)


def _encoding(plan: TrainingPlan) -> int:
    """What the VAE takes to encode a clip, beside its weights."""
    frames, pixels = plan.frames, plan.width * plan.height
    at_once = pixels
    if plan.settings.vae_tiling:
        at_once = min(plan.width, _TILE_WIDTH) * min(plan.height, _TILE_HEIGHT)
    outermost = at_once * plan.variant.vae_channels[0]
    values = _PICTURE_VALUES if frames == 1 else _PART_VALUES
    if frames > _FIRST_PART:
        values = _PARTS_VALUES
    if frames > 1 and outermost * (_PART + 2) * 2 > _LARGE:
        values += _LARGE_VALUES
    item = ITEM_BYTES[plan.variant.dtype]
    # The clip itself is there in float32 and in the VAE's dtype.
    return int(outermost * values * item) + 3 * frames * pixels * (4 + item)


def _frozen(plan: TrainingPlan) -> int:
    variant, needs_vae = plan.variant, plan.variant.task == "i2v" or plan.settings.validate_every
    vae = _sizes(variant, variant.dtype).vae.total if needs_vae else 0
    if plan.settings.full:
        # Tables of positions, which nothing trains.
        return vae + _sizes(variant, "float32").transformer.total - 4 * plan.parameters
    return vae + _sizes(variant, plan.dtype).transformer.total


def _share(plan: TrainingPlan, bytes_each: float) -> int:
    """Bytes of something that each trained parameter has."""
    return int(plan.parameters * bytes_each) // plan.shards


def _copies(plan: TrainingPlan) -> int:
    """The 16-bit copies of what is trained that autocast keeps until a forward pass has ended."""
    return 2 * plan.parameters if plan.mixed and plan.shards == 1 else 0


def _gathered(plan: TrainingPlan) -> int:
    """What FSDP puts together from all GPUs: what is in no block, this block and the next one.

    Their gradients are whole, too, before each GPU gets its part.
    """
    if plan.shards == 1:
        return 0
    transformer = _sizes(plan.variant, plan.dtype).transformer
    return 2 * (transformer.outside + 2 * transformer.block)


def _stages(plan: TrainingPlan, *, vae_tiling: bool = False) -> Stages:
    """What the models of a weights folder take for one video, each beside its weights."""
    return working_memory(plan.variant, plan.variant.dtype, plan.video, vae_tiling=vae_tiling)


@cache
def _sizes(variant: Variant, dtype: Dtype) -> ComponentSizes:
    return variant_sizes(variant, dtype)


@cache
def _transformer_parameters(variant: Variant) -> int:
    shapes = variant_shapes(variant)["transformer"]
    # A buffer in diffusers, learned though it once was.
    return sum(math.prod(s) for n, s in shapes.items() if n != "patch_embed.pos_embedding")
