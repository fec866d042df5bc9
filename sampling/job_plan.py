"""From lines to jobs, and from jobs to the units that are sampled together. Opens only images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predictors.lora.source import LocalFile, LoraPlaces, parse_source
from predictors.memory_estimate import VideoSize
from predictors.request import MAX_SEED, validate
from sampling.clip_job import ClipJob, SatSampler, WorkUnit
from sampling.clip_key import batch_key, clip_key, digest_of, problem_key
from sampling.image_header import image_size
from sampling.prompt_formats import located
from weights.errors import UserError
from weights.urls import shown_url
from weights.variants import Variant

if TYPE_CHECKING:
    from sampling.prompt_lines import PromptLine

DEFAULT_SEED = 42
# What `--scheduler` and a line's `scheduler` may say beside the schedulers of a request.
SAT_SAMPLERS: dict[str, SatSampler] = {"sat": "dpmpp2m", "sat-ddim": "ddim"}
_SAMPLER_NAMES = {sampler: name for name, sampler in SAT_SAMPLERS.items()}
# By what jobs of one batch may differ.
_OF_ONE = ("prompt", "seed", "fps", "output_format", "output_quality", "image_fit")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRules:
    """What holds for all lines of a run.

    `defaults`: request fields by name, for lines that leave them blank. `origin`: stands for the
    weights and how they compute, in keys. `lora_places`: where LoRAs on this disk may be.
    """

    variant: Variant
    defaults: Mapping[str, Any] = field(default_factory=dict)
    seed: int = DEFAULT_SEED
    origin: str = ""
    lora_places: LoraPlaces = LoraPlaces()  # noqa: RUF009  # frozen


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that asks for no clip that can be made: why, and what is known of it."""

    line: int
    prompt: str | None
    key: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """All that a prompt file asks for, whatever of it is done already."""

    units: tuple[WorkUnit, ...]
    bad_lines: tuple[BadLine, ...]

    @property
    def jobs(self) -> tuple[ClipJob, ...]:
        return tuple(job for unit in self.units for job in unit.jobs)


def line_seed(base: int, line: int) -> int:
    """The seed of a line that has none of its own: of the line alone, whoever samples it."""
    return (base + line) % (MAX_SEED + 1)


def plan_jobs(lines: "Iterable[PromptLine]", rules: JobRules, batch: int = 1) -> JobPlan:
    """Every line as a job of a unit, or as a bad line.

    Jobs of one shape go together, `batch` at a time in the order of their lines: over the whole
    file, so that a unit is the same in every run. Only the last of a shape may have fewer.
    """
    planned = [plan_line(line, rules) for line in lines]
    jobs = [each for each in planned if isinstance(each, ClipJob)]
    bad_lines = tuple(each for each in planned if isinstance(each, BadLine))
    return JobPlan(units=_units(jobs, batch), bad_lines=bad_lines)


def plan_line(line: "PromptLine", rules: JobRules) -> ClipJob | BadLine:
    """What a line asks for, for a unit of its own; or why that can't be made."""
    try:
        if line.problem is not None:
            raise line.problem
        return _job(line, rules)
    except UserError as error:
        problem = str(error if line.problem is not None else located(error, line.place))
    except OSError as error:
        problem = f"{line.place}: {error.filename} can't be read ({error.strerror})."
    prompt = line.inputs.get("prompt")
    return BadLine(
        line=line.number,
        prompt=prompt if isinstance(prompt, str) else None,
        key=problem_key(line.inputs, problem),
        problem=problem,
    )


def _job(line: "PromptLine", rules: JobRules) -> ClipJob:
    inputs = {**rules.defaults, **line.inputs}
    inputs.setdefault("seed", line_seed(rules.seed, line.number))
    sampler = SAT_SAMPLERS.get(inputs.get("scheduler", ""))
    if sampler:
        inputs["scheduler"] = "auto"
        # SAT has it with both of its samplers.
        inputs.setdefault("dynamic_guidance", True)
    picture = image_size(line.image) if line.image else None
    request = validate(rules.variant, **inputs, image_size=picture)
    return ClipJob(
        line=line.number,
        request=request,
        image=line.image,
        sat_sampler=sampler,
        key=clip_key(
            request,
            sampler=sampler,
            image=line.image,
            lora=_local_lora(request.lora, rules.lora_places),
            origin=rules.origin,
        ),
    )


def settings_of(job: ClipJob) -> dict[str, Any]:
    """The request of `job` as the manifest has it: without prompt and seed, which it has beside.

    A LoRA's URL may hold a secret: it is shortened.
    """
    settings = asdict(job.request) | {"lora": shown_url(job.request.lora)}
    del settings["prompt"], settings["seed"]
    if job.sat_sampler:
        settings["scheduler"] = _SAMPLER_NAMES[job.sat_sampler]
    return settings


def largest_video(units: Iterable[WorkUnit]) -> VideoSize | None:
    """The most frames, width and height that any job asks for; None where there is no job."""
    requests = [job.request for unit in units for job in unit.jobs]
    if not requests:
        return None
    largest = max(requests, key=lambda r: r.num_frames * r.width * r.height)
    return VideoSize(largest.num_frames, largest.width, largest.height)


def _units(jobs: Sequence[ClipJob], batch: int) -> tuple[WorkUnit, ...]:
    shapes: dict[str, list[ClipJob]] = {}
    for job in jobs:
        shapes.setdefault(_shape(job), []).append(job)
    batches = [
        same[begin : begin + batch]
        for same in shapes.values()
        for begin in range(0, len(same), batch)
    ]
    batches.sort(key=lambda each: each[0].line)
    return tuple(
        WorkUnit(number=number, jobs=tuple(_with_batch(each)), missing=frozenset())
        for number, each in enumerate(batches)
    )


def _with_batch(jobs: Sequence[ClipJob]) -> Iterable[ClipJob]:
    """`jobs` with keys that say with whom each is sampled."""
    if len(jobs) == 1:
        return jobs
    keys = [job.key for job in jobs]
    return (replace(job, key=batch_key(job.key, keys)) for job in jobs)


def _shape(job: ClipJob) -> str:
    """Equal for jobs that the transformer can denoise as one batch."""
    request = {name: value for name, value in asdict(job.request).items() if name not in _OF_ONE}
    # Texts differ from job to job; that there is a negative pass must not.
    del request["negative_prompt"]
    return digest_of({**request, "sampler": job.sat_sampler})


def _local_lora(lora: str, places: LoraPlaces) -> Path | None:
    if not lora:
        return None
    source = parse_source(lora, places)
    return source.path if isinstance(source, LocalFile) else None
