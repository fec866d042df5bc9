"""A SAT checkpoint, and where the parts of its model are."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from conversion.sat_config import SatConfig, read_sat_config
from conversion.sat_layout import locate
from conversion.text_encoder import find_text_encoder
from weights.errors import UserError
from weights.variants import VARIANTS

# To be raised whenever another conversion comes of the same sources.
_FORMAT = 1
_DIGITS = 16
_LONGEST_NAME = 40
# Folders that say nothing of the model in them.
_USUAL = {"transformer", "transformer_i2v", "sat"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SatSource:
    """A SAT checkpoint and what is known of it.

    `checkpoint` is a directory with `transformer/`, a training's with `latest`, or a file. What is
    None is looked for beside it, and `dtype` is then the one it is stored in.
    """

    checkpoint: Path
    config: Path | None = None
    vae: Path | None = None
    text_encoder: Path | None = None
    dtype: Literal["fp16", "bf16", "fp32"] | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None


def is_sat_checkpoint(weights: str | Path) -> bool:
    """Whether what names weights is a SAT checkpoint's path: no variant, weights folder or lock."""
    if weights in VARIANTS:
        return False
    path = Path(weights)
    if path.is_file():
        return path.suffix == ".pt"
    if (path / "model_index.json").exists():
        return False
    return (path / "latest").is_file() or any(
        (path / name).is_dir() for name in ("transformer", "transformer_i2v")
    )


def complete_source(source: SatSource) -> SatSource:
    """The source with all of its parts.

    Raises:
        UserError: one is not to be found.
    """
    checkpoint = source.checkpoint.resolve()
    layout = locate(checkpoint)
    roots = [layout.root]
    if (checkpoint / "latest").is_file() or checkpoint.is_file():
        roots.append(checkpoint.parent)
    config = source.config or next(_files(roots, "model.yaml"), None)
    vae = source.vae or next(_files(roots, "vae/3d-vae.pt"), None)
    settings = read_sat_config(config) if config else None
    encoder = source.text_encoder or _text_encoder(roots, settings)
    for what, key, found in (
        ("VAE (vae/3d-vae.pt)", "first_stage_config.params.ckpt_path", vae),
        ("T5", "conditioner_config.params.emb_models[0].params.model_dir", encoder),
    ):
        if found is None:
            raise UserError(
                f"The {what} of {source.checkpoint} was not found.",
                "It is expected beside the checkpoint, or where the yaml of SAT says "
                f"(model.{key}).",
                "Put it there, or convert with `cogvideox convert` and use the folder it writes.",
            )
    return replace(source, checkpoint=checkpoint, config=config, vae=vae, text_encoder=encoder)


def _files(roots: list[Path], name: str) -> Iterator[Path]:
    return (root / name for root in roots if (root / name).is_file())


def _text_encoder(roots: list[Path], settings: SatConfig | None) -> Path | None:
    found = (find_text_encoder(root, None, settings) for root in roots)
    return next((folder for folder in found if folder), None)


def conversion_name(source: SatSource) -> str:
    """The name of what a complete `source` becomes: the checkpoint's, and a digest.

    The digest is of what the tensors depend on: paths, sizes and modification times of the files,
    for one of their contents would take as long as a conversion; the contents of `model.yaml`; the
    dtype and our version.

    Raises:
        OSError: a file can't be read.
    """
    return f"{_name(source.checkpoint)}-{_key(source)}"


def _name(checkpoint: Path) -> str:
    """A name by which people know the checkpoint."""
    parts = [part for part in checkpoint.parts[-3:] if part.lower() not in _USUAL]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", parts[-1] if parts else "").strip(".-")
    return name[:_LONGEST_NAME] or "sat"


def _key(source: SatSource) -> str:
    transformer = locate(source.checkpoint).transformer
    files = [path for path in (transformer, source.vae) if path]
    if folder := source.text_encoder:
        patterns = ("*", "text_encoder/*", "tokenizer/*")
        files += sorted(path for p in patterns for path in folder.glob(p) if path.is_file())
    states = [(path.resolve(), path.stat()) for path in files]
    content = [
        _FORMAT,
        version("cog-cogvideox"),
        [(str(path), status.st_size, status.st_mtime_ns) for path, status in states],
        source.config.read_text(encoding="utf-8") if source.config else None,
        source.dtype,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:_DIGITS]
