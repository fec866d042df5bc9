"""What a forward and backward pass of the transformer takes beside weights. Arithmetic, no torch.

The constants are bytes for each token and each unit of the transformer's width. They were counted
on diffusers 0.42.1 at full size, on torch's meta device, where tensors have a size and no content:
tests/training/finetuning/test_memory_estimate.py does it again. The count follows torch's rules for
autocast on CUDA, and takes attention to be a fused kernel that keeps no scores.

Under autocast norms compute in float32, and every LoRA layer keeps a 16-bit copy of its input. In
float32 such a copy is shared by those layers that have the same input.
"""

from typing import NamedTuple

from training.finetuning.settings import FinetuneSettings
from weights.transformer_modules import block_modules
from weights.variants import Variant

_SHARED_INPUT = ("attn1.to_q", "attn1.to_k", "attn1.to_v")


class _Counts(NamedTuple):
    """Bytes for each token and unit of width."""

    block: float
    """What a block keeps for its backward pass, without what a LoRA's layers keep."""
    unchecked: float
    """Beside all blocks, where all keep theirs."""
    forward: float
    """Beside the blocks' inputs, as a forward pass with checkpointing ends."""
    backward: float
    """Beside these and one block, as the backward pass begins."""
    last: float
    """Beside one block and all gradients, as it ends."""


# By whether all weights are trained, and whether autocast is on.
_COUNTS = {
    (False, True): _Counts(32.3, 16.2, 33.9, 20.4, 12.0),
    (False, False): _Counts(48.4, 32.4, 44.3, 32.4, 24.0),
    (True, True): _Counts(62.3, 24.0, 33.8, 12.2, 9.0),
    (True, False): _Counts(92.3, 24.2, 44.3, 16.5, 9.0),
}
# What a LoRA in the feed-forward layers adds at the peaks under autocast, in float32.
_FEED_FORWARD_LORA = 20.0
# What one in a norm adds to a block: the products that modulate are kept for their factors.
_NORM_LORA = 6.1
# Of a pass without gradients: in float32, and under autocast without rotary embeddings and with.
_SAMPLING_FLOAT32, _SAMPLING, _SAMPLING_ROTARY = 48.3, 28.1, 35.9


class PassMemory(NamedTuple):
    """Bytes of activations at the moments that may be the peak of a pass. No gradients of weights.

    The first two include 16-bit copies of all trained weights, where autocast makes them.
    """

    forward_ends: int
    backward_begins: int
    backward_ends: int


def pass_memory(
    variant: Variant, settings: FinetuneSettings, *, tokens: int, mixed: bool, copies: int
) -> PassMemory:
    """What a batch takes at once.

    Args:
        tokens: of one clip, with those of its text.
        mixed: the transformer computes in 16 bits, by autocast.
        copies: bytes of the copies of trained weights.
    """
    counts = _COUNTS[settings.full, mixed]
    unit = settings.batch * tokens * variant.hidden_size
    item = 2 if mixed else 4
    block, more = counts.block, 0.0
    if not settings.full:
        block += _kept_by_lora(variant, settings, item)
        more = _peak_of_lora(settings, mixed)
    if not settings.checkpointing:
        kept = int((variant.num_layers * block + counts.unchecked + more) * unit) + copies
        return PassMemory(kept, kept, int((block + counts.last + more) * unit))
    inputs = variant.num_layers * item
    return PassMemory(
        forward_ends=int((inputs + counts.forward + more) * unit) + copies,
        backward_begins=int((inputs + block + counts.backward + more) * unit),
        backward_ends=int((item + block + counts.last + more) * unit),
    )


def sampling_memory(variant: Variant, *, tokens: int, mixed: bool, copies: int) -> int:
    """What the transformer takes to sample a validation clip, whose two passes are one batch."""
    count = _SAMPLING_ROTARY if variant.rotary else _SAMPLING
    return int(2 * tokens * variant.hidden_size * (count if mixed else _SAMPLING_FLOAT32)) + copies


def lora_modules(settings: FinetuneSettings, variant: Variant) -> dict[str, tuple[int, int]]:
    """The modules of a block that the LoRA changes, with their rows and columns.

    As in training.finetuning.lora, `attn1.` may be left out.
    """
    targets = {target.removeprefix("attn1.") for target in settings.targets}
    return {
        name: (shape[0], shape[1])
        for name, shape in block_modules(variant).items()
        if name.removeprefix("attn1.") in targets
    }


def _kept_by_lora(variant: Variant, settings: FinetuneSettings, item: int) -> float:
    """Bytes for each token and unit of width that the layers of a block's LoRA keep."""
    modules = lora_modules(settings, variant)
    norms = [name for name in modules if name.startswith("norm")]
    layers = {name: columns for name, (_, columns) in modules.items() if name not in norms}
    if item == 4:
        shared = [name for name in _SHARED_INPUT if name in layers][1:]
        inputs = sum(columns for name, columns in layers.items() if name not in shared)
    else:
        inputs = sum(layers.values())
    values = inputs + settings.rank * len(layers)
    return values * item / variant.hidden_size + _NORM_LORA * len(norms)


def _peak_of_lora(settings: FinetuneSettings, mixed: bool) -> float:
    feed_forward = any(target.startswith("ff.") for target in settings.targets)
    return _FEED_FORWARD_LORA if mixed and feed_forward else 0.0
