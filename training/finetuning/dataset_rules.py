"""What the model that is trained on asks of a dataset."""

from collections.abc import Callable

from predictors.weights_source import ReadyWeights
from training.dataset.clip_rules import ClipRules
from weights.errors import UserError
from weights.variants import Variant

_SIZES_SHOWN = 5


def clip_rules(
    variant: Variant,
    *,
    images: bool,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
) -> ClipRules:
    """Clips of the length and the (width, height) asked for, else of those the variant makes.

    Args:
        images: pictures are used too, as clips of one frame.

    Raises:
        UserError: the variant makes no such clips.
    """
    if images and variant.task == "i2v":
        raise UserError(
            f"--images is asked for with {variant.name}.",
            "A model that goes on from an image learns nothing from one frame.",
            "Leave it out, or train a model for text-to-video.",
        )
    if frames is not None and frames not in variant.legal_frames:
        raise UserError(
            f"--frames is {frames}.",
            f"{variant.name} makes {', '.join(map(str, variant.legal_frames))} frames.",
            "Use one of these, or leave it out.",
        )
    width, height = size or (variant.width, variant.height)
    if (width, height) not in variant.legal_sizes:
        shown = ", ".join(f"{w}x{h}" for w, h in variant.legal_sizes[:_SIZES_SHOWN])
        more = len(variant.legal_sizes) - _SIZES_SHOWN
        raise UserError(
            f"--size is {width}x{height}.",
            f"{variant.name} makes {shown}{f' and {more} more' if more > 0 else ''}.",
            "Use one of these, or leave it out.",
        )
    return ClipRules(
        fps=variant.fps,
        frames=frames or variant.default_frames,
        width=width,
        height=height,
        images=images,
        first_frames=variant.task == "i2v",
    )


def token_counter(base: ReadyWeights) -> Callable[[str], int]:
    """A function that says how many tokens a text has for the model, its end token included."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.folder / "tokenizer")

    def count(text: str) -> int:
        return len(tokenizer(text, verbose=False)["input_ids"])

    return count
