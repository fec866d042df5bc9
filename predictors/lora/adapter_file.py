"""A LoRA file becomes an `Adapter`: the matrices of each module it changes, and their scale.

The file is a stranger's. Only .safetensors is read, whose header is checked before any tensor is;
nothing of it is executed, and every message says what is wrong without naming a path of ours.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from predictors.lora.adapter_scale import read_config, trained_scales
from predictors.lora.base_model import check_base, recorded_base
from weights.adapter_names import Part, Style, is_text_encoder_key, looks_like, parse_key
from weights.errors import UserError
from weights.safetensors_header import TensorEntry, read_header
from weights.transformer_modules import Shape
from weights.variants import Variant

if TYPE_CHECKING:
    import torch

_T = TypeVar("_T")

# Every module of the largest model makes a header of 200 KB.
_MAX_HEADER_BYTES = 4 << 20
_DTYPES = {"F16", "BF16", "F32", "F64"}
_SHOWN = 5
_REMEDY = "Use a .safetensors file with a LoRA for CogVideoX's transformer."


@dataclass(frozen=True, slots=True, eq=False)
class LoraPair:
    """What is added to one module's weight W: the output becomes W·x + scale · B·A·x.

    `a` is (rank, columns) and `b` (rows, rank), with the kernel's (height, width) after them where
    the module is a convolution: A has the module's own, B 1×1. `scale` is alpha / rank.
    """

    a: "torch.Tensor"
    b: "torch.Tensor"
    scale: float

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A LoRA, by the names that diffusers gives the transformer's modules.

    `notes` are sentences for the user: what the file leaves open, and what is done about it.
    """

    pairs: Mapping[str, LoraPair]
    style: Style
    notes: tuple[str, ...]


def read_adapter(path: Path, variant: Variant) -> Adapter:
    """Read a LoRA and check that it is whole and made for `variant`.

    Matrices keep the dtype of the file and lie on the CPU.

    Raises:
        UserError: the file is no CogVideoX LoRA, is damaged, or is for another base model.
    """
    entries = _read_header(path)
    style, modules = _modules(entries)
    shapes = {module: _weight_shape(module, parts, entries) for module, parts in modules.items()}
    metadata = _read(path, lambda file: file.metadata() or {})
    config = read_config(metadata)
    recorded = recorded_base(metadata, config.base_model if config else None)
    base_note = check_base(shapes, recorded, variant)
    # Refused or not is known by now, before anything large is read.
    wanted = [name for parts in modules.values() for name in parts.values()]
    tensors = _read(path, lambda file: {name: file.get_tensor(name) for name in wanted})
    matrices = {
        module: (tensors[parts["A"]], tensors[parts["B"]]) for module, parts in modules.items()
    }
    _check_finite(matrices)
    scales, scale_note = trained_scales(
        {module: int(a.shape[0]) for module, (a, _) in matrices.items()},
        {m: float(tensors[parts["alpha"]]) for m, parts in modules.items() if "alpha" in parts},
        config,
        style,
    )
    pairs = {module: LoraPair(a, b, scales[module]) for module, (a, b) in matrices.items()}
    notes = (_text_encoder_note(entries), base_note, scale_note)
    return Adapter(pairs, style, tuple(note for note in notes if note))


def _read_header(path: Path) -> dict[str, TensorEntry]:
    try:
        # Up to 100 MB are legal, and would cost seconds and a gigabyte to go through.
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            raise _damaged(f"its header would have {length} bytes")
        return read_header(path)
    except OSError as error:
        raise _damaged(error.strerror or "it is not there") from None
    except UserError as error:
        # What it says of a file in the cache would name a path that the user never saw.
        raise _damaged(error.given.replace(str(path), "it").rstrip(".")) from None


def _read(path: Path, what: Callable[[Any], _T]) -> _T:
    from safetensors import SafetensorError, safe_open

    try:
        # Read, not mapped: a file that is cut off while it is mapped takes the process with it.
        with safe_open(path, "pt", backend="pread") as file:
            return what(file)
    except (SafetensorError, OSError) as error:
        raise _damaged(str(error).replace(str(path), "it")) from None


def _damaged(reason: str) -> UserError:
    return UserError(
        f"The LoRA cannot be read: {reason}.", "A whole .safetensors file is expected.", _REMEDY
    )


def _modules(names: Collection[str]) -> tuple[Style, dict[str, dict[Part, str]]]:
    """The style of a file, and by module the name of the tensor of each part."""
    modules: dict[str, dict[Part, str]] = {}
    styles: set[Style] = set()
    unknown = []
    for name in names:
        key = parse_key(name)
        if key is None:
            if not is_text_encoder_key(name):
                unknown.append(name)
            continue
        if key.style:
            styles.add(key.style)
        if modules.setdefault(key.module, {}).setdefault(key.part, name) != name:
            raise _faulty(f"has {modules[key.module][key.part]} and {name}, which are the same")
    if not styles:
        raise _no_lora(f"The file holds no LoRA for CogVideoX: {_listed(names)}.", names)
    if unknown:
        raise _no_lora(f"The LoRA has tensors of unknown names: {_listed(unknown)}.", names)
    if len(styles) > 1:
        raise _faulty(f"mixes names in the style of {' and '.join(sorted(styles))}")
    if incomplete := [m for m, parts in modules.items() if not {"A", "B"} <= parts.keys()]:
        raise _faulty(f"lacks one of the two matrices for {_listed(incomplete)}")
    return styles.pop(), modules


def _weight_shape(
    module: str, parts: Mapping[Part, str], entries: Mapping[str, TensorEntry]
) -> Shape:
    """The shape of B·A, after checking that A and B can be multiplied."""
    a, b = entries[parts["A"]], entries[parts["B"]]
    for entry in (a, b):
        if entry.dtype not in _DTYPES:
            raise _faulty(f"has values of the dtype {entry.dtype} for {module}")
    dimensions = len(a.shape) == len(b.shape) and len(a.shape) in (2, 4)
    if not dimensions or 0 in a.shape or b.shape[1:] != (a.shape[0], 1, 1)[: len(b.shape) - 1]:
        raise _faulty(f"has matrices of {list(a.shape)} and {list(b.shape)} for {module}")
    if "alpha" in parts and entries[parts["alpha"]].shape not in ((), (1,)):
        raise _faulty(f"has an alpha of more than one number for {module}")
    return (b.shape[0], *a.shape[1:])


def _check_finite(matrices: "Mapping[str, tuple[torch.Tensor, torch.Tensor]]") -> None:
    # The extremes of a tensor with a NaN are NaN; to look at them is 20 times as fast as isfinite.
    extremes = {module: (*a.aminmax(), *b.aminmax()) for module, (a, b) in matrices.items()}
    bad = [module for module, found in extremes.items() if not all(e.isfinite() for e in found)]
    if bad:
        raise _faulty(f"holds values that are not finite for {_listed(bad)}")


def _no_lora(given: str, names: Collection[str]) -> UserError:
    guess = looks_like(names)
    return UserError(
        f"{given} It looks like {guess}." if guess else given,
        "Pairs of matrices for modules of CogVideoX's transformer are expected, and nothing else.",
        "Convert it with `cogvideox convert-lora`."
        if guess and "SAT checkpoint" in guess
        else _REMEDY,
    )


def _faulty(fault: str) -> UserError:
    return UserError(
        f"The LoRA {fault}.",
        "For each module, two matrices of finite numbers that can be multiplied are expected.",
        "Get or save the file again.",
    )


def _text_encoder_note(names: Collection[str]) -> str | None:
    count = sum(map(is_text_encoder_key, names))
    if not count:
        return None
    return f"Its {count} tensors for the text encoder are left out: only the transformer's count."


def _listed(names: Collection[str]) -> str:
    if not names:
        return "it is empty"
    # Escaped: a stranger's name may be anything, a line of a log included.
    shown = ", ".join(ascii(name[:120])[1:-1] for name in list(names)[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
