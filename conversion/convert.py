"""Carries a conversion plan out: a diffusers folder, complete or not there at all."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from conversion.new_folder import new_folder
from conversion.plan import ConversionPlan
from conversion.safetensors_writer import WrittenFile, write_safetensors
from conversion.text_encoder import copy_text_encoder


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _written(folder: Path, name: str) -> WrittenFile:
    path = folder / name
    return WrittenFile(name, path.stat().st_size, _digest(path))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _record(plan: ConversionPlan, files: list[WrittenFile]) -> dict[str, Any]:
    sources = [model.file.path for model in plan.models]
    return {
        "tool": "cog-cogvideox",
        "version": version("cog-cogvideox"),
        "variant": plan.detection.variant.name,
        "dtype": plan.folder_dtype,
        "sources": [
            {"path": path.name, "size": path.stat().st_size, "digest": _digest(path)}
            for path in sources
        ],
        "files": [asdict(file) for file in sorted(files, key=lambda file: file.path)],
        "left_out": [name for model in plan.models for name in model.left_out],
    }


def _write_folder(plan: ConversionPlan, folder: Path, advance: Callable[[int], object]) -> None:
    files = []
    for name, content in plan.configs.items():
        _write_json(folder / name, content)
        files.append(_written(folder, name))
    for model in plan.models:
        written = write_safetensors(
            folder / model.folder,
            model.plan.tensors,
            model.source,
            dtype=plan.dtype,
            advance=advance,
        )
        files += [replace(file, path=f"{model.folder}/{file.path}") for file in written]
    if plan.text_encoder is not None:
        files += [_written(folder, name) for name in copy_text_encoder(plan.text_encoder, folder)]
    _write_json(folder / "conversion.json", _record(plan, files))


def convert(
    plan: ConversionPlan, destination: Path, advance: Callable[[int], object] = lambda _: None
) -> None:
    """Write the folder that `plan` describes.

    Whatever stops the work leaves nothing at `destination`.

    Args:
        plan: from `plan_conversion`.
        destination: a path that does not exist yet, or an empty folder.
        advance: called with the bytes of tensor data just written.

    Raises:
        UserError: `destination` is taken.
        OperationError: a value does not fit into the dtype asked for.
    """
    with new_folder(destination) as folder:
        _write_folder(plan, folder, advance)
