"""SAT's configuration of a sampling (`model.yaml` and `inference.yaml`) as options of ours.

What the files don't say keeps our defaults. The schema is that of zai-org/CogVideo,
`sat/configs/inference.yaml` and `sat/arguments.py`; what the keys do is read in
`sat/sample_video.py`. As there, of two files that say the same the second one counts.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from conversion.number_ranges import COUNT
from conversion.sat_unmapped import Unmapped, unmapped_keys
from conversion.sat_yaml import Entry, Reading
from predictors.request import MAX_FPS, MAX_SEED
from sampling.sat_model import read_model, read_variant
from sampling.sat_options import Options, require_value
from sampling.sat_paths import named_path, not_there
from sampling.sat_reasons import REASONS
from sampling.sat_sampling import read_sampler
from sampling.sat_source import SatSource, is_sat_checkpoint
from weights.errors import UserError
from weights.variants import LATENT_CHANNELS, TEMPORAL_COMPRESSION, Variant

_LOAD = "args.load"
_SIZE = "args.sampling_image_size"
_DTYPE_KEYS = ("args.fp16", "args.bf16")


@dataclass(frozen=True, slots=True, kw_only=True)
class SatInference:
    """What SAT's files say of a sampling."""

    files: tuple[Path, ...]
    variant: Variant
    """The model that the numbers of the files are of."""
    options: Mapping[str, Any]
    """Fields of requests and their values; `scheduler` is one of SAT's."""
    seed: int | None
    """The base of the seeds of all lines."""
    prompts: Path | Literal["-"] | None
    """The file with the prompts; "-": they are typed."""
    out: str | None
    source: SatSource | None
    """The checkpoint to convert; None where other weights were given, or none are named."""
    ignored: tuple[Unmapped, ...]
    """Every key of the files that has no part in the above."""
    notes: tuple[str, ...]

    def check_weights(self, variant: Variant) -> None:
        """Nothing, if `variant`, the one of the weights, is the one that the files describe.

        Raises:
            UserError: it is another.
        """
        if variant.name != self.variant.name:
            raise UserError(
                f"The weights are of {variant.name}.",
                f"{' and '.join(map(str, self.files))} describe {self.variant.name}.",
                "Give the yaml of these weights as --sat-config, or other weights.",
            )


def read_sat_inference(
    model: Path,
    inference: Path | None = None,
    *,
    weights: str | None = None,
    given: Collection[str] = (),
) -> SatInference:
    """Read SAT's files for a sampling.

    Args:
        model: SAT's `model.yaml`; older ones hold the section `args`, too.
        inference: SAT's `inference.yaml`.
        weights: what the command line names as weights: a SAT checkpoint is converted as the files
            say, other weights are taken as they are.
        given: the options that the command line names; they go before the files.

    Raises:
        UserError: a file can't be read, or a value is not what the model can do.
    """
    reading = Reading([model] if inference is None else [model, inference])
    options = Options(reading, given)
    variant = read_variant(reading)
    _check_run(reading, variant)
    notes = list(read_sampler(options, variant))
    options.read("num_frames", "args.sampling_num_frames", lambda entry: _frames(entry, variant))
    _read_size(options, variant)
    options.read("fps", "args.sampling_fps", lambda entry: entry.whole_number((1, MAX_FPS)))
    options.read("seed", "args.seed", lambda entry: entry.whole_number((0, MAX_SEED)))
    return SatInference(
        files=reading.files,
        variant=variant,
        prompts=_prompts(options),
        out=_out(options),
        source=_source(reading, weights, notes),
        seed=options.values.pop("seed", None),
        options=options.values,
        ignored=unmapped_keys(reading, REASONS),
        notes=tuple(notes),
    )


def _check_run(reading: Reading, variant: Variant) -> None:
    """Refuse what is no sampling, or one that doesn't fit the model."""
    if mode := reading.take("args.mode"):
        require_value(mode, "inference")
    if channels := reading.take("args.latent_channels"):
        require_value(channels, LATENT_CHANNELS)
    if (clips := reading.peek("args.batch_size")) and clips.whole_number(COUNT) == 1:
        reading.take("args.batch_size")
    flag = reading.take("args.image2video")
    if flag and flag.flag() != (variant.task == "i2v"):
        raise flag.refused(
            f"{not flag.value} is expected: the model is built like {variant.name}, whose network "
            f"has {variant.in_channels} in_channels."
        )


def _frames(entry: Entry, variant: Variant) -> int:
    """Frames of a video, from the latent frames that SAT samples.

    SAT counts the one that is added where patches span two frames (`patch_size_t`, 1.5) and that is
    not decoded.
    """
    step = variant.patch_size_t or 1
    legal = {}
    for frames in variant.legal_frames:
        latents = (frames - 1) // TEMPORAL_COMPRESSION + 1
        legal[latents + -latents % step] = frames
    try:
        return legal[entry.whole_number(COUNT)]
    except KeyError:
        shown = ", ".join(f"{latents} ({frames} frames)" for latents, frames in legal.items())
        raise entry.refused(f"{variant.name} makes {shown}.") from None


def _read_size(options: Options, variant: Variant) -> None:
    if variant.any_aspect:
        return
    if options.is_given("width") or options.is_given("height"):
        options.overrule("width" if options.is_given("width") else "height", _SIZE)
        return
    entry = options.reading.take(_SIZE)
    if entry is None:
        return
    sides = [item.whole_number(COUNT) for item in entry.items()]
    if (*reversed(sides),) not in variant.legal_sizes:
        legal = ", ".join(f"[{height}, {width}]" for width, height in variant.legal_sizes)
        raise entry.refused(f"{variant.name} makes {legal}, height first.")
    options.values["height"], options.values["width"] = sides


def _prompts(options: Options) -> Path | Literal["-"] | None:
    names = ("args.input_type", "args.input_file")
    if options.is_given("prompts"):
        options.overrule("prompts", *names)
        return None
    kind = options.reading.take(names[0])
    if kind is None:
        return None
    if kind.value == "cli":
        return "-"
    if kind.value != "txt":
        raise kind.refused("txt or cli is expected.")
    file = options.reading.take(names[1])
    if file is None:
        raise kind.refused(f"The file is expected as {names[1]}.")
    path = named_path(file)
    if path is None:
        raise not_there(file, "A text file with one prompt a line is expected.", "as PROMPTS")
    return path


def _out(options: Options) -> str | None:
    if options.is_given("out"):
        options.overrule("out", "args.output_dir")
        return None
    entry = options.reading.take("args.output_dir")
    return entry.text() if entry else None


def _source(reading: Reading, weights: str | None, notes: list[str]) -> SatSource | None:
    """The checkpoint, and what the files know of it."""
    load = reading.peek(_LOAD)
    if weights is None and load is None:
        return None
    if weights is not None:
        convertible = is_sat_checkpoint(weights)
        for name in (_LOAD,) if convertible else (_LOAD, *_DTYPE_KEYS):
            if entry := reading.peek(name):
                reading.set_aside(entry, "--weights was given, and decides.")
        if not convertible:
            return None
    model = read_model(reading)
    return SatSource(
        checkpoint=Path(weights) if weights else _checkpoint(reading),
        config=model.config,
        vae=_part(model.vae, notes),
        text_encoder=_part(model.text_encoder, notes),
        dtype=_dtype(reading),
        lora_rank=model.lora_rank,
        lora_alpha=model.lora_alpha,
    )


def _part(entry: Entry | None, notes: list[str]) -> Path | None:
    found = named_path(entry) if entry else None
    if entry and not found:
        notes.append(
            f"{entry.file} has {entry.name}: {entry.value}, which is not there. What is beside the "
            f"checkpoint is used."
        )
    return found


def _checkpoint(reading: Reading) -> Path:
    entry = reading.take(_LOAD)
    assert entry
    found = named_path(entry)
    if found is None or not is_sat_checkpoint(found):
        raise not_there(entry, "A SAT checkpoint's folder is expected.", "as --weights")
    return found


def _dtype(reading: Reading) -> Literal["fp16", "bf16", "fp32"] | None:
    """The dtype to convert to; None: that of the checkpoint."""
    fp16, bf16 = map(reading.take, _DTYPE_KEYS)
    if fp16 is None and bf16 is None:
        return None
    if bf16 and bf16.flag():
        if fp16 and fp16.flag():
            raise fp16.refused(f"False is expected where {bf16.name} is True.")
        return "bf16"
    return "fp16" if fp16 and fp16.flag() else "fp32"
