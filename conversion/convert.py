"""Carries a conversion plan out: a diffusers folder, complete or not there at all."""

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from conversion.file_digest import WrittenFile, file_digest, written_file
from conversion.plan import ConversionPlan, PlannedModel
from conversion.resumable_folder import ResumableFolder, resumable_folder
from conversion.safetensors_writer import write_index, write_shard
from conversion.text_encoder import write_text_encoder
from weights.disk_space import check_space

Advance = Callable[[int], object]


def _write_json(folder: Path, name: str, content: Mapping[str, Any]) -> WrittenFile:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return written_file(folder, name)


def _write_model(
    model: PlannedModel, folder: ResumableFolder, allow_overflow: bool, advance: Advance
) -> list[WrittenFile]:
    target = folder.path / model.folder
    target.mkdir(exist_ok=True)
    files = []
    for shard in model.shards:
        name = f"{model.folder}/{shard.name}"
        if name in folder.complete:
            advance(shard.data_size)
        else:
            with (target / shard.name).open("wb") as file:
                digest = write_shard(
                    file, shard, model.source, allow_overflow=allow_overflow, advance=advance
                )
                size = file.tell()
            folder.record(WrittenFile(name, size, digest))
        files.append(folder.complete[name])
    if len(model.shards) > 1:
        index = write_index(target, model.shards)
        files.append(written_file(folder.path, f"{model.folder}/{index}"))
    return files


def _write_folder(plan: ConversionPlan, folder: ResumableFolder, advance: Advance) -> None:
    sources = [model.file.path for model in plan.models]
    files = [_write_json(folder.path, name, content) for name, content in plan.configs.items()]
    # Sources are hashed beside the writing: the pages are read once, by whoever comes first.
    with ThreadPoolExecutor(1) as pool:
        digests = pool.map(file_digest, sources)
        for model in plan.models:
            allow_overflow = plan.options.cast.allow_overflow
            files += _write_model(model, folder, allow_overflow, advance)
        if plan.text_encoder is not None:
            names = write_text_encoder(plan.text_encoder, folder.path)
            files += [written_file(folder.path, name) for name in names]
        read = [
            asdict(WrittenFile(path.name, path.stat().st_size, digest))
            for path, digest in zip(sources, digests, strict=True)
        ]
    record = {
        "tool": "cog-cogvideox",
        "version": version("cog-cogvideox"),
        "variant": plan.detection.variant.name,
        "dtype": plan.dtype,
        "settings": plan.settings,
        "sources": read,
        "files": [asdict(file) for file in sorted(files, key=lambda file: file.path)],
        "left_out": [name for model in plan.models for name in model.left_out],
    }
    _write_json(folder.path, "conversion.json", record)


def _fingerprint(plan: ConversionPlan) -> str:
    """What the written bytes depend on; the sources by size and time, since hashing takes long."""
    sources = [(str(m.file.path), m.file.path.stat()) for m in plan.models]
    content = [
        [(path, status.st_size, status.st_mtime_ns) for path, status in sources],
        plan.settings,
        [shard.name for model in plan.models for shard in model.shards],
        version("cog-cogvideox"),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def convert(
    plan: ConversionPlan,
    destination: Path,
    *,
    resume: bool = False,
    advance: Advance = lambda _: None,
) -> None:
    """Write the folder that `plan` describes.

    Whatever stops the work leaves nothing at `destination`. After an interruption, complete shards
    wait beside it for `resume`.

    Args:
        plan: from `plan_conversion`.
        destination: a path that does not exist yet, or an empty folder.
        resume: go on with what an interrupted run of the same plan left.
        advance: called with the bytes of tensor data just written, or found complete.

    Raises:
        UserError: `destination` is taken or being written, or `resume` finds other work.
        OperationError: there is not enough space, or a value does not fit into the dtype.
    """
    with resumable_folder(destination, fingerprint=_fingerprint(plan), resume=resume) as folder:
        done = sum(file.size for file in folder.complete.values())
        encoder = plan.text_encoder.size if plan.text_encoder else 0
        check_space(destination, max(0, plan.total_bytes + encoder - done))
        _write_folder(plan, folder, advance)
