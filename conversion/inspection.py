"""What a checkpoint is, read from keys, shapes and `model.yaml`; no tensor is loaded."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

from conversion import transformer_rules, vae_rules
from conversion.checkpoint import Checkpoint, open_checkpoint
from conversion.detection import Detection, detect
from conversion.lora import split_lora
from conversion.rules import Shape
from conversion.sat_config import read_sat_config
from conversion.sat_layout import locate
from conversion.text_encoder import find_text_encoder
from conversion.transformer_file import tensors_under
from conversion.transformer_rules import TransformerArchitecture
from conversion.vae_rules import VaeArchitecture
from weights.errors import UserError

# Key prefixes of a whole training engine, and what lies under them.
_CARRIED = {
    "conditioner.": "text encoder (T5)",
    "first_stage_model.": "VAE",
    "model_ema.": "EMA weights",
    "loss.": "training loss",
}
_OPTIMIZER_ENTRIES = ("optimizer", "lr_scheduler")


@dataclass(frozen=True, slots=True)
class FileSummary:
    """One checkpoint file: its path, tensors, parameters, bytes of tensor data and dtypes."""

    path: Path
    tensors: int
    parameters: int
    size: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `cogvideox inspect` tells; what was not found is None."""

    files: tuple[FileSummary, ...]
    transformer: TransformerArchitecture | None
    detection: Detection | None
    undetected: str | None
    """Why the variant cannot be told."""
    vae: VaeArchitecture | None
    text_encoder: Path | None
    config: Path | None
    lora_rank: int | None
    lora_modules: int
    carries: tuple[str, ...]
    """What the files hold beside transformer and VAE, in words."""


def _summary(file: Checkpoint) -> FileSummary:
    tensors = file.tensors.values()
    dtypes = Counter(str(t.dtype).removeprefix("torch.") for t in tensors)
    return FileSummary(
        path=file.path,
        tensors=len(file.tensors),
        parameters=sum(prod(t.shape) for t in tensors),
        size=sum(prod(t.shape) * t.dtype.itemsize for t in tensors),
        dtypes=tuple(name for name, _ in dtypes.most_common()),
    )


def _carried(files: Iterable[Checkpoint]) -> tuple[str, ...]:
    found = []
    for file in files:
        for prefix, words in _CARRIED.items():
            count = sum(name.startswith(prefix) for name in file.tensors)
            if count:
                found.append(f"{words}: {count} tensors under {prefix}")
        if entries := [name for name in _OPTIMIZER_ENTRIES if name in file.other_entries]:
            found.append(f"training state: {', '.join(entries)}")
    return tuple(found)


def _transformer_shapes(file: Checkpoint) -> dict[str, Shape]:
    base, _ = split_lora(tensors_under(file, transformer_rules.PREFIX))
    return {name: tuple(tensor.shape) for name, tensor in base.items()}


def _lora_rank(file: Checkpoint) -> int | None:
    ranks = {int(t.shape[0]) for name, t in file.tensors.items() if ".matrix_A." in name}
    return max(ranks, default=None)


def inspect(source: Path, config: Path | None = None) -> Inspection:
    """Read what a SAT directory or a single checkpoint file holds.

    Raises:
        UserError: nothing is there, or a file cannot be read.
    """
    layout = locate(source)
    config_path = config or layout.config
    settings = read_sat_config(config_path) if config_path else None
    files = [open_checkpoint(path) for path in (layout.transformer, layout.vae) if path]
    if not files:
        raise UserError(
            f"{source} holds neither transformer/ nor vae/3d-vae.pt.",
            "A SAT directory or a checkpoint file is expected.",
            "Check the path.",
        )
    transformer = vae = detection = undetected = None
    for file in files:
        shapes = _transformer_shapes(file)
        if shapes:
            try:
                transformer = transformer_rules.read_architecture(shapes)
                detection = detect(transformer, settings)
            except UserError as error:
                undetected = str(error)
        if "encoder.conv_in.conv.weight" in file.tensors:
            vae = vae_rules.read_architecture(file.shapes(vae_rules.PREFIX))
    return Inspection(
        files=tuple(_summary(file) for file in files),
        transformer=transformer,
        detection=detection,
        undetected=undetected,
        vae=vae,
        text_encoder=find_text_encoder(layout.root, None, settings),
        config=config_path,
        lora_rank=next((rank for file in files if (rank := _lora_rank(file))), None),
        lora_modules=sum(len(file.lora_layers) for file in files),
        carries=_carried(files),
    )
