"""Reads a converted folder and its source again and compares every value."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from conversion.diffusers_folder import open_model
from conversion.file_digest import file_digest
from conversion.lora import DEFAULT_ALPHA
from conversion.plan import ConversionOptions, ConversionPlan, PlannedModel, plan_conversion
from conversion.rules import PlannedTensor, Shape, plan_inverse
from conversion.safetensors_writer import Cast, row_blocks
from conversion.tensor_source import FileTensors, TensorSource
from weights.errors import UserError
from weights.folder import check_weights_folder

Advance = Callable[[int], object]

# Adding a LoRA to other groups of rows may round differently in the last places of float32.
_MERGE_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class ModelReport:
    """How the tensors of one model compare."""

    model: str
    source_tensors: int
    target_tensors: int
    values: int
    identical: int
    """Source tensors whose every value stands in the folder, bit for bit."""
    rounded: int
    """Source tensors that stand there as their values rounded to the folder's dtype."""
    different: tuple[str, ...]
    """Source tensors of which a value is another."""
    missing: tuple[str, ...]
    """Target tensors that are not in the folder, or of another shape."""
    unknown: tuple[str, ...]
    """Tensors in the folder that the conversion does not write."""

    @property
    def ok(self) -> bool:
        return not (self.different or self.missing or self.unknown)


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """The outcome of a verification."""

    variant: str
    models: tuple[ModelReport, ...]
    left_out: int
    """Entries of the source that a diffusers folder has no place for."""
    files: int
    """Files whose digest is the recorded one."""
    altered_files: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return all(model.ok for model in self.models) and not self.altered_files


def _record(folder: Path) -> dict[str, Any]:
    path = folder / "conversion.json"
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        return record | {"settings": dict(record["settings"]), "files": list(record["files"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}).",
            "A folder written by `cogvideox convert` is expected; the record in it says how.",
            "Convert again, or give the folder that was converted.",
        ) from error


def _recorded_options(
    settings: dict[str, Any], config: Path | None, vae: Path | None
) -> ConversionOptions:
    dtype = settings.get("dtype")
    return ConversionOptions(
        config=config,
        vae=vae,
        variant=settings.get("variant"),
        cast=Cast(None if dtype is None else getattr(torch, dtype), allow_overflow=True),
        frames=settings.get("frames"),
        lora=settings.get("lora") or "refuse",
        alpha=settings.get("alpha") or DEFAULT_ALPHA,
    )


def _compare(
    tensor: PlannedTensor, source: TensorSource, written: TensorSource, tolerance: float
) -> tuple[bool, bool]:
    """Whether a source tensor stands in the folder, and whether without rounding.

    `tensor` puts the source tensor together from the folder's tensors.
    """
    exact = True
    row = 0
    itemsize = max(
        source.dtype(tensor.name).itemsize, written.dtype(tensor.pieces[0].name).itemsize
    )
    for found in row_blocks(tensor, written, itemsize):
        expected = source.rows(tensor.name, row, row + found.shape[0])
        row += found.shape[0]
        exact &= expected.dtype == found.dtype
        expected = expected.to(found.dtype)
        if torch.equal(expected, found):
            continue
        bound = max(tolerance, 2 * torch.finfo(found.dtype).eps if tolerance else 0.0)
        if not torch.allclose(expected, found, rtol=bound, atol=tolerance, equal_nan=True):
            return False, False
        exact = False
    return True, exact


def _verify_model(model: PlannedModel, folder: Path, advance: Advance) -> ModelReport:
    written = open_model(folder / model.folder)
    shapes: dict[str, Shape] = {name: tuple(tensor.shape) for name, tensor in written.items()}
    planned = {tensor.name: tensor.shape for tensor in model.plan.tensors}
    missing = tuple(name for name, shape in planned.items() if shapes.get(name) != shape)
    unknown = tuple(name for name in shapes if name not in planned)
    inverse = plan_inverse(model.table, planned, f"model {model.folder}").tensors
    merged = not isinstance(model.source, FileTensors)
    different, identical = [], 0
    for tensor in inverse:
        if any(piece.name in missing for piece in tensor.pieces):
            different.append(tensor.name)
            continue
        same, exact = _compare(
            tensor, model.source, FileTensors(written), _MERGE_TOLERANCE if merged else 0.0
        )
        identical += exact
        if not same:
            different.append(tensor.name)
        advance(prod(tensor.shape) * written[tensor.pieces[0].name].dtype.itemsize)
    return ModelReport(
        model=model.folder,
        source_tensors=len(inverse),
        target_tensors=len(planned),
        values=sum(prod(shape) for shape in planned.values()),
        identical=identical,
        rounded=len(inverse) - identical - len(different),
        different=tuple(different),
        missing=missing,
        unknown=unknown,
    )


def _altered(folder: Path, files: list[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(
        recorded["path"]
        for recorded in files
        if not (path := folder / recorded["path"]).is_file()
        or file_digest(path) != recorded["digest"]
    )


def plan_verification(
    folder: Path, source: Path, *, config: Path | None = None, vae: Path | None = None
) -> ConversionPlan:
    """The conversion of `source` with the settings that `folder` records.

    Raises:
        UserError: `folder` was not written by a conversion, or `source` cannot be converted so.
    """
    check_weights_folder(folder)
    options = _recorded_options(_record(folder)["settings"], config, vae)
    return plan_conversion(source, options)


def verify(
    plan: ConversionPlan, folder: Path, *, advance: Advance = lambda _: None
) -> VerificationReport:
    """Compare a folder with its source.

    Every source tensor is put together again from the folder's tensors by the inverse of the
    table, so that a value in the wrong place is found as surely as a wrong value.

    Args:
        plan: from `plan_verification`.
        folder: the converted folder.
        advance: called with the bytes of each tensor compared.

    Raises:
        UserError: a file of the folder cannot be read.
    """
    models = tuple(_verify_model(model, folder, advance) for model in plan.models)
    recorded = _record(folder)["files"]
    altered = _altered(folder, recorded)
    return VerificationReport(
        variant=plan.detection.variant.name,
        models=models,
        left_out=sum(len(model.left_out) for model in plan.models),
        files=len(recorded) - len(altered),
        altered_files=altered,
    )
