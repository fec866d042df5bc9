"""Which variants a LoRA fits, from the shapes it changes and from what it says of itself."""

from collections.abc import Iterable, Mapping

from weights.errors import UserError
from weights.transformer_modules import Shape, module_shapes
from weights.variants import VARIANTS, Variant

_SHOWN = 3


def recorded_base(metadata: Mapping[str, str], base_model: str | None) -> str | None:
    """The variant that the file says it was trained for, if it names one of ours.

    Args:
        metadata: of the file; `cogvideox convert-lora` writes `variant` there.
        base_model: what PEFT recorded, a repository on Hugging Face (`THUDM/CogVideoX-5b-I2V`) or
            a path: the last part of its name is the variant's, but for upper and lower case.
    """
    names = [metadata.get("variant", "")]
    if base_model:
        names.append(base_model.rstrip("/").rpartition("/")[2].lower())
    return next((name for name in names if name in VARIANTS), None)


def check_base(shapes: Mapping[str, Shape], recorded: str | None, variant: Variant) -> str | None:
    """Check that a LoRA is for `variant`; a note where the file leaves that open.

    Args:
        shapes: by module, the shape of the weight that B·A is added to.
        recorded: the variant the file names.

    Raises:
        UserError: it is for another base model; says for which.
    """
    if recorded is not None and recorded != variant.name:
        raise _wrong_base(f"The LoRA was trained for {recorded}, as the file records.", variant)
    misfits = _misfits(shapes, variant)
    fitting = [other.name for other in VARIANTS.values() if not _misfits(shapes, other)]
    if misfits and fitting:
        raise _wrong_base(f"The LoRA has the shapes of {_any_of(fitting)}.", variant)
    if misfits:
        raise UserError(
            f"The LoRA fits no CogVideoX model: {_listed(misfits)}.",
            f"The shapes of {variant.name} are expected.",
            f"Use a LoRA that was trained for {variant.name}.",
        )
    others = [name for name in fitting if name != variant.name]
    if recorded is None and others:
        return f"It does not record its base model: its shapes fit {_any_of(others)} as well."
    return None


def _misfits(shapes: Mapping[str, Shape], variant: Variant) -> list[str]:
    expected = module_shapes(variant)
    return [
        f"{module} is {_times(shape)}, not {_times(expected[module])}"
        if module in expected
        else f"there is no {module}"
        for module, shape in shapes.items()
        if expected.get(module) != shape
    ]


def _wrong_base(given: str, variant: Variant) -> UserError:
    return UserError(
        given,
        f"This server runs {variant.name}.",
        f"Use a LoRA that was trained for {variant.name}, or a server that runs the other model.",
    )


def _any_of(names: list[str]) -> str:
    *before, last = names
    return f"{', '.join(before)} or {last}" if before else last


def _times(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape))


def _listed(faults: list[str]) -> str:
    more = len(faults) - _SHOWN
    return "; ".join(faults[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
