"""SAT's own `model.yaml`: what the shapes of a checkpoint cannot tell.

The schema is that of zai-org/CogVideo, `sat/configs/cogvideox_*.yaml`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from weights.errors import UserError


@dataclass(frozen=True, slots=True)
class SatConfig:
    """The settings of a `model.yaml` that conversion needs."""

    path: Path
    num_layers: int
    hidden_size: int
    in_channels: int
    temporal_patches: bool
    """Patches span two latent frames (1.5)."""
    sample_frames: int
    sample_height: int
    sample_width: int
    text_tokens: int
    rotary: bool
    learned_positions: bool
    spatial_interpolation: float
    vae_scaling_factor: float
    snr_shift_scale: float
    text_encoder: str | None
    """SAT's `model_dir` of the T5: a path relative to SAT's working directory, or a hub id."""


class _Section:
    """A mapping of the yaml that knows its place, so that errors can name it."""

    def __init__(self, value: object, path: Path, place: str) -> None:
        if not isinstance(value, Mapping):
            raise UserError(
                f"{path} has no section {place!r}." if place else f"{path} is not a mapping.",
                "A model.yaml of SAT is expected, with a section `model` that holds "
                "`network_config`.",
                "Give the yaml the model was trained with.",
            )
        self._value, self._path, self._place = value, path, place

    def section(self, name: str) -> "_Section":
        return _Section(self._value.get(name), self._path, f"{self._place}.{name}".lstrip("."))

    def optional(self, name: str, default: Any) -> Any:
        return self._value.get(name, default)

    def number(self, name: str, default: float | None = None) -> float:
        value = self._value.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(
                f"{self._path} has {value!r} at {self._place}.{name}.",
                "A number is expected there.",
                "Give the yaml the model was trained with.",
            )
        return value

    def integer(self, name: str) -> int:
        return int(self.number(name))


def _load(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"There is no file {path}.", "A model.yaml of SAT is expected.", "Check the path."
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} cannot be read as yaml ({str(error).splitlines()[0]}).",
            "A model.yaml of SAT is expected.",
            "Check the path given as --config.",
        ) from error


def _text_encoder(model: _Section) -> str | None:
    """What is odd there counts as nothing: a conversion can be told where the T5 is."""
    embedders = _at(model.optional("conditioner_config", None), "params", "emb_models")
    for embedder in embedders if isinstance(embedders, list) else ():
        folder = _at(embedder, "params", "model_dir")
        if isinstance(folder, str):
            return folder
    return None


def _at(value: object, *names: str) -> object:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def read_sat_config(path: Path) -> SatConfig:
    """Read a SAT `model.yaml`.

    Raises:
        UserError: the file cannot be read, is not yaml, or misses a section or a number.
    """
    model = _Section(_load(path), path, "").section("model")
    network = model.section("network_config").section("params")
    positions = network.section("modules").section("pos_embed_config")
    position_params = positions.section("params")
    discretization = (
        model.section("denoiser_config").section("params").section("discretization_config")
    )
    return SatConfig(
        path=path,
        num_layers=network.integer("num_layers"),
        hidden_size=network.integer("hidden_size"),
        in_channels=network.integer("in_channels"),
        temporal_patches=isinstance(network.optional("patch_size", 2), list),
        sample_frames=network.integer("num_frames"),
        sample_height=network.integer("latent_height"),
        sample_width=network.integer("latent_width"),
        text_tokens=position_params.integer("text_length"),
        rotary="Rotary" in str(positions.optional("target", "")),
        learned_positions=bool(position_params.optional("learnable_pos_embed", False)),
        spatial_interpolation=float(position_params.number("height_interpolation", 1.0)),
        vae_scaling_factor=float(model.number("scale_factor")),
        snr_shift_scale=_shift_scale(discretization),
        text_encoder=_text_encoder(model),
    )


def _shift_scale(discretization: _Section) -> float:
    if discretization.optional("params", None) is None:
        return 1.0
    return float(discretization.section("params").number("shift_scale", 1.0))
