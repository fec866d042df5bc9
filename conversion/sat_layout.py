"""Where SAT keeps the parts of a model on disk.

The layout is that of the released weights (zai-org/CogVideo, `sat/README.md`): `transformer/`
with a file `latest` that names the step, `vae/3d-vae.pt` and a folder with the T5.
"""

from dataclasses import dataclass
from pathlib import Path

from weights.errors import UserError

_TRANSFORMER_FOLDERS = ("transformer", "transformer_i2v")
_TRANSFORMER_FILE = "mp_rank_00_model_states.pt"


@dataclass(frozen=True, slots=True)
class SatLayout:
    """The files of one SAT model; what is not there is None."""

    root: Path
    transformer: Path | None
    vae: Path | None
    config: Path | None


def _step_file(folder: Path) -> Path:
    latest = folder / "latest"
    if not latest.is_file():
        raise UserError(
            f"{folder} has no file `latest`.",
            f"It is expected to name the step, whose folder holds {_TRANSFORMER_FILE}.",
            f"Write it, for example: echo 1 > {latest}",
        )
    step = latest.read_text(encoding="utf-8", errors="replace").strip()
    if not step or Path(step).name != step or step in (".", ".."):
        raise UserError(
            f"{latest} names the step {step!r}.",
            "The name of a folder beside it is expected.",
            "Correct the file.",
        )
    path = folder / step / _TRANSFORMER_FILE
    if not path.is_file():
        raise UserError(
            f"{latest} names the step {step}, but {path} is not there.",
            "The step's folder is expected to hold that file.",
            "Check that the checkpoint is complete, or correct `latest`.",
        )
    if path.with_name("mp_rank_01_model_states.pt").is_file():
        raise UserError(
            f"{path.parent} is split over several model-parallel ranks.",
            f"One file {_TRANSFORMER_FILE} is expected.",
            "Merge the ranks with SAT (model_parallel_size 1) first.",
        )
    return path


def locate(source: Path) -> SatLayout:
    """Find the parts of a SAT model below a directory, or take one checkpoint file as it is.

    Raises:
        UserError: `source` is not there, or its `transformer/` is not as SAT writes it.
    """
    if source.is_file():
        return SatLayout(source.parent, source, None, None)
    if not source.is_dir():
        raise UserError(
            f"There is nothing at {source}.",
            "A SAT directory with transformer/ and vae/ is expected.",
            "Check the path.",
        )
    if (source / "model_index.json").is_file():
        raise UserError(
            f"{source} is a diffusers folder.",
            "A SAT directory with transformer/ and vae/ is expected.",
            "For the way back use `cogvideox convert --to sat`.",
        )
    folders = [source / name for name in _TRANSFORMER_FOLDERS if (source / name).is_dir()]
    if (source / "latest").is_file():
        folders.append(source)
    vae = source / "vae" / "3d-vae.pt"
    config = source / "model.yaml"
    return SatLayout(
        root=source,
        transformer=_step_file(folders[0]) if folders else None,
        vae=vae if vae.is_file() else None,
        config=config if config.is_file() else None,
    )
