"""What SAT's `model.yaml` says of a model: which it is, and what a conversion needs to know.

The schema is that of zai-org/CogVideo, `sat/configs/cogvideox_*.yaml`; what the keys do is read in
its `sat/diffusion_video.py`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conversion.number_ranges import COUNT, POSITIVE, Range
from conversion.sat_yaml import Entry, Reading
from sampling.sat_options import last_part, missing, require_value
from weights.errors import UserError
from weights.variants import VARIANTS, Variant

_NETWORK = "model.network_config.params"
_POSITIONS = f"{_NETWORK}.modules.pos_embed_config"
_LORA = f"{_NETWORK}.modules.lora_config"
_DENOISER = "model.denoiser_config"
_EMBEDDERS = "model.conditioner_config.params.emb_models"
_VAE = "model.first_stage_config.params.ckpt_path"

# The numbers, beside those that tell the variant, that a conversion takes from the file.
_CONVERTED: dict[str, Range] = {
    f"{_NETWORK}.num_frames": COUNT,
    f"{_NETWORK}.latent_height": COUNT,
    f"{_NETWORK}.latent_width": COUNT,
    f"{_POSITIONS}.params.text_length": COUNT,
    f"{_POSITIONS}.params.height_interpolation": POSITIVE,
    f"{_DENOISER}.params.discretization_config.params.shift_scale": POSITIVE,
    "model.scale_factor": POSITIVE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SatModel:
    """What a conversion needs to know of a model; what the file doesn't say is None."""

    config: Path
    vae: Entry | None
    text_encoder: Entry | None
    lora_rank: int | None
    lora_alpha: float | None


def read_variant(reading: Reading) -> Variant:
    """The variant whose numbers the file has, else the released one that is built alike.

    Raises:
        UserError: a number is missing, or there is no such variant.
    """
    layers, width, channels = (
        _required(reading, f"{_NETWORK}.{name}").whole_number(COUNT)
        for name in ("num_layers", "hidden_size", "in_channels")
    )
    rotary = "Rotary" in last_part(_required(reading, f"{_POSITIONS}.target"))
    patch = _required(reading, f"{_NETWORK}.patch_size")
    if patch.value not in (2, [2, 2, 2]):
        raise patch.refused("2 is expected, or [2, 2, 2] for CogVideoX 1.5.")
    if flag := reading.take(f"{_POSITIONS}.params.learnable_pos_embed"):
        flag.flag()
    family = [
        variant
        for variant in VARIANTS.values()
        if (variant.in_channels, variant.patch_size_t is not None, variant.rotary)
        == (channels, isinstance(patch.value, list), rotary)
    ]
    same = [v for v in family if (v.num_layers, v.hidden_size) == (layers, width)]
    released = [v for v in family if not v.name.startswith("nano")]
    if not same and not released:
        entry = _required(reading, f"{_NETWORK}.in_channels")
        raise entry.refused(
            f"No CogVideoX model has that with these patches and {'' if rotary else 'no '}rotary "
            f"embeddings."
        )
    return (same or released)[0]


def read_model(reading: Reading) -> SatModel:
    """What the conversion of a SAT checkpoint needs to know.

    Raises:
        UserError: a value is not what SAT takes, or two contradict each other.
    """
    for name, within in _CONVERTED.items():
        if entry := reading.take(name):
            entry.number(within)
    vae = reading.take(_VAE)
    rank, alpha = _lora(reading)
    return SatModel(
        config=_one_file(reading),
        vae=vae,
        text_encoder=_text_encoder(reading),
        lora_rank=rank,
        lora_alpha=alpha,
    )


def _required(reading: Reading, name: str) -> Entry:
    entry = reading.take(name)
    if entry is None:
        raise missing(reading, name)
    return entry


def _lora(reading: Reading) -> tuple[int | None, float | None]:
    if entry := reading.take(f"{_LORA}.target"):
        require_value(entry, "LoraMixin")
    rank = reading.take(f"{_LORA}.params.r")
    alpha = reading.take(f"{_LORA}.params.lora_alpha")
    if alpha and not rank:
        raise missing(reading, f"{_LORA}.params.r")
    return (
        rank.whole_number(COUNT) if rank else None,
        alpha.number(POSITIVE) if alpha else None,
    )


def _text_encoder(reading: Reading) -> Entry | None:
    """The `model_dir` of the T5."""
    for name in ("model.conditioner_config", "model.conditioner_config.params"):
        if (entry := reading.entries.get(tuple(name.split(".")))) and entry.value != {}:
            raise entry.refused("A mapping is expected.")
    listed = reading.entries.get(tuple(_EMBEDDERS.split(".")))
    if listed is None:
        return None
    embedders = listed.items()
    embedder: Any = embedders[0].value if len(embedders) == 1 else None
    params = embedder.get("params") if isinstance(embedder, dict) else None
    if not isinstance(params, dict):
        raise listed.refused("One embedder is expected, the T5 of the prompt, with its params.")
    rest = {name: params[name] for name in params if name not in ("model_dir", "max_length")}
    left = {name: value for name, value in embedder.items() if name != "params"}
    left |= {"params": rest} if rest else {}
    reading.entries[listed.key] = replace(listed, value=[left])
    if not left:
        reading.mapped.add(listed.key)
    place = (*embedders[0].key, "params")
    _check_tokens(reading, Entry((*place, "max_length"), params.get("max_length"), listed.file))
    folder = Entry((*place, "model_dir"), params.get("model_dir"), listed.file)
    return None if folder.value is None else folder


def _check_tokens(reading: Reading, given: Entry) -> None:
    tokens = reading.peek(f"{_POSITIONS}.params.text_length")
    if given.value is None or tokens is None:
        return
    if given.whole_number(COUNT) != tokens.whole_number(COUNT):
        raise given.refused(f"The number of {tokens.name} is expected.")


def _one_file(reading: Reading) -> Path:
    """The file that describes the model: a conversion reads one."""
    files = {entry.file: entry.name for key, entry in reading.entries.items() if _converted(key)}
    if len(files) > 1:
        (first, one), (second, other) = list(files.items())[:2]
        raise UserError(
            f"{first} has {one}, and {second} has {other}.",
            "The model is expected to be described in one file.",
            "Put the section `model` into that file.",
        )
    return next(iter(files))


def _converted(key: tuple[str, ...]) -> bool:
    name = ".".join(key)
    return name.startswith((_NETWORK, f"{_DENOISER}.params.discretization", "model.scale_factor"))
