"""A full fine-tune as a weights folder: the base's, with the trained transformer in it.

The folder is what `save_pretrained` would write: it is served, packed and converted like any other.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from conversion.diffusers_folder import open_model
from conversion.file_digest import WrittenFile, written_file
from conversion.new_folder import check_destination, new_folder
from conversion.safetensors_writer import (
    MAX_SHARD_BYTES,
    Cast,
    plan_shards,
    write_index,
    write_shard,
)
from predictors.weights_source import ReadyWeights
from training.finetuning.lora_file import check_finite, planned_as_they_are
from weights.disk_space import check_space
from weights.errors import UserError
from weights.json_file import read_object

_TRANSFORMER = "transformer"
_INDEX = "model_index.json"
_RECORD = "conversion.json"
# Weights may be passed on only with what their licence wants beside them.
_LEGAL = ("licen", "notice")
_COPY_BYTES = 1 << 30

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class _InBaseDtypes:
    """Trained tensors, some rows at a time on the CPU, in the dtypes that they have in the base."""

    tensors: Tensors
    dtypes: Mapping[str, torch.dtype]

    def dtype(self, name: str) -> torch.dtype:
        return self.dtypes[name]

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        rows = self.tensors[name][start:stop].detach().to("cpu").to(self.dtypes[name])
        check_finite({name: rows})
        return rows


def save_full_weights(
    trained: Tensors,
    base: ReadyWeights,
    destination: Path,
    *,
    settings: Mapping[str, Any],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the weights folder; it appears under its name when it is complete.

    Args:
        trained: the transformer's parameters, in any dtype and on any device. What else the base's
            transformer has, such as a position table that is no parameter, stays as it is.
        base: the weights that were trained on.
        destination: a path that does not exist yet, or an empty folder.
        settings: of the training, as JSON takes them, for `conversion.json`.
        max_shard_bytes: where the transformer's file is split, as by `save_pretrained`.

    Raises:
        UserError: `destination` is taken, or the tensors are not those of `base`.
        OperationError: the disk is too small, or a value is not finite in the base's dtype.
    """
    check_destination(destination)
    before = open_model(base.folder / _TRANSFORMER)
    _check_fit(trained, before)
    source = _InBaseDtypes({**before, **trained}, {name: t.dtype for name, t in before.items()})
    taken_over = dict(_taken_over(base.folder))
    copied = sum(path.stat().st_size for path in taken_over.values())
    check_space(destination, copied + sum(tensor.nbytes for tensor in before.values()))
    with new_folder(destination) as folder:
        for name, path in taken_over.items():
            (folder / name).parent.mkdir(exist_ok=True)
            _copy(path, folder / name)
        files = [written_file(folder, name) for name in taken_over]
        files += _write_transformer(source, folder, max_shard_bytes)
        text = json.dumps(_record(base, settings, files), indent=2)
        (folder / _RECORD).write_text(f"{text}\n", encoding="utf-8")


def _check_fit(trained: Tensors, base: Tensors) -> None:
    misfits = [name for name in trained if name not in base]
    misfits += [n for n, t in trained.items() if n in base and t.shape != base[n].shape]
    if misfits or not trained:
        raise UserError(
            f"The trained transformer has {len(trained)} tensors, of which {len(misfits)} are not "
            f"in the base or have another shape there{': ' if misfits else ''}"
            f"{', '.join(misfits[:3])}.",
            "The parameters of the base's own transformer are expected.",
            "Name the weights that were trained on.",
        )


def _taken_over(base: Path) -> Iterator[tuple[str, Path]]:
    """What the new folder has from the base, by its path there: all but the transformer's weights.

    Only what makes a weights folder, not whatever else lies in it.
    """
    yield _INDEX, base / _INDEX
    yield f"{_TRANSFORMER}/config.json", base / _TRANSFORMER / "config.json"
    for path in sorted(base.iterdir()):
        if path.is_file() and path.name.lower().startswith(_LEGAL):
            yield path.name, path
    components = read_object(base / _INDEX).keys() - {_TRANSFORMER}
    for component in sorted(name for name in components if (base / name).is_dir()):
        for path in sorted((base / component).iterdir()):
            if path.is_file() and not path.name.startswith("."):
                yield f"{component}/{path.name}", path


def _copy(source: Path, destination: Path) -> None:
    """Copy a file's content; where the file system can share it (btrfs, XFS), it takes no space."""
    with source.open("rb") as read, destination.open("wb") as written:
        try:
            while os.copy_file_range(read.fileno(), written.fileno(), _COPY_BYTES):
                pass
        except OSError:
            # Between some file systems the kernel can't.
            read.seek(0)
            written.seek(0)
            shutil.copyfileobj(read, written, 1 << 20)


def _write_transformer(
    source: _InBaseDtypes, folder: Path, max_shard_bytes: int
) -> list[WrittenFile]:
    target = folder / _TRANSFORMER
    shards = plan_shards(planned_as_they_are(source.tensors), source, Cast(), max_shard_bytes)
    files = []
    for shard in shards:
        with (target / shard.name).open("wb") as file:
            digest = write_shard(file, shard, source)
            files.append(WrittenFile(f"{_TRANSFORMER}/{shard.name}", file.tell(), digest))
    if len(shards) > 1:
        index = write_index(target, shards)
        files.append(written_file(folder, f"{_TRANSFORMER}/{index}"))
    return files


def _record(
    base: ReadyWeights, settings: Mapping[str, Any], files: list[WrittenFile]
) -> dict[str, Any]:
    """The base's record, where it has one, of the new files and with the training."""
    path = base.folder / _RECORD
    converted = read_object(path) if path.is_file() else {}
    tool = {"tool": "cog-cogvideox", "version": version("cog-cogvideox")}
    return {
        **tool,
        **converted,
        "variant": base.variant.name,
        "dtype": base.dtype,
        "files": [asdict(file) for file in sorted(files, key=lambda file: file.path)],
        "finetuned": {**tool, "settings": dict(settings)},
    }
