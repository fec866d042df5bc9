"""What a command asks for, checked: lines, weights, OUT and what of it is still to be done."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from predictors.lora.source import parse_source
from predictors.operator_settings import OperatorSettings, operator_settings
from predictors.request import validate
from predictors.weights_source import ReadyWeights, resolve_weights
from sampling.clip_job import WorkUnit
from sampling.clip_key import digest_of, weights_identity
from sampling.clip_sampler import SamplerSettings
from sampling.job_plan import (
    DEFAULT_SEED,
    SAT_SAMPLERS,
    JobPlan,
    JobRules,
    largest_video,
    plan_jobs,
)
from sampling.manifest import Manifest
from sampling.open_store import open_store
from sampling.output_store import OutputStore
from sampling.prompt_lines import PromptLine, read_prompt_lines
from sampling.remaining_work import RemainingWork, remaining_work
from weights.byte_sizes import shown_size
from weights.lock import read_lock
from weights.variants import VARIANTS, Task, Variant, variant_named

# A video of 49 frames of 720×480 had 25 MB as 4:2:0 and 0.85 MB as H.264 at the default quality.
_COMPRESSION = 30
_BYTES_PER_PIXEL = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleCommand:
    """What `cogvideox sample` was asked for.

    `prompts`: the file; None for prompts that are typed. `defaults`: request fields by name, for
    lines that leave them blank; without the seed: `seed` is the base of the lines' seeds.
    `check_variant`: raises where the weights are of the wrong variant.
    `lora_paths`: folders that LoRAs may be in beside those of COGVIDEOX_LORA_PATHS.
    """

    prompts: Path | None
    out: str
    weights: str
    task: Task | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    seed: int = DEFAULT_SEED
    batch: int = 1
    overwrite: bool = False
    retry_failed: bool = False
    lora_paths: tuple[Path, ...] = ()
    check_variant: Callable[[Variant], object] = lambda variant: None
    debug: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """All that is known before anything is computed.

    `lines`: how many there are. `settings`: for the processes that sample.
    """

    command: SampleCommand
    weights: ReadyWeights
    rules: JobRules
    plan: JobPlan
    work: RemainingWork
    store: OutputStore
    settings: SamplerSettings
    lines: int
    log_prompts: bool

    def shard(self, rank: int, world: int) -> "PreparedRun":
        """Of `world` parts the one numbered `rank`: whole units, and to the first the bad lines.

        The same for each start of the same command, however much of it is done.
        """

        def ours(unit: WorkUnit) -> bool:
            return unit.number % world == rank

        lines = {job.line for unit in self.plan.units if ours(unit) for job in unit.jobs}
        if rank == 0:
            lines |= {bad.line for bad in self.plan.bad_lines}
        work = replace(
            self.work,
            units=tuple(filter(ours, self.work.units)),
            bad_lines=self.work.bad_lines if rank == 0 else (),
            done=self.work.done & lines,
            failed={line: error for line, error in self.work.failed.items() if line in lines},
        )
        return replace(self, work=work, lines=len(lines))


def prepare_run(command: SampleCommand) -> PreparedRun:
    """Read and check everything; weights that a lock names are installed. stdout stays empty.

    Raises:
        UserError: prompts, OUT, weights or settings are not usable, or OUT has other clips.
        OperationError: the weights can't be installed, or OUT can't be reached.
    """
    with redirect_stdout(sys.stderr):
        operator = operator_settings(os.environ)
        lines = _lines_before_weights(command)
        store = open_store(command.out)
        weights = resolve_weights(command.weights, command.task)
        command.check_variant(weights.variant)
        if lines is None:
            lines = _lines(command, weights.variant.task)
        rules = job_rules(command, weights, operator)
        plan = plan_jobs(lines, rules, command.batch)
        work = _remaining(command, plan, store)
        _tell_of_space(plan, work, command.out)
    return PreparedRun(
        command=command,
        weights=weights,
        rules=rules,
        plan=plan,
        work=work,
        store=store,
        settings=sampler_settings(command, weights, operator, plan),
        lines=len(lines),
        log_prompts=operator.log_prompts,
    )


def job_rules(
    command: SampleCommand, weights: ReadyWeights, operator: OperatorSettings
) -> JobRules:
    """What holds for every line.

    Raises:
        UserError: an option is nothing that the variant can do.
    """
    given = dict(command.defaults)
    if given.get("scheduler") in SAT_SAMPLERS:
        given["scheduler"] = "auto"
    # A mistake in an option is no line's: it is said before anything is done.
    request = validate(weights.variant, prompt="any", seed=command.seed, **given)
    places = operator.lora_places
    places = replace(places, folders=(*places.folders, *command.lora_paths))
    if request.lora:
        parse_source(request.lora, places)
    origin = {
        "weights": weights_identity(weights.folder),
        "int8": operator.pipeline.int8,
        "metadata": operator.metadata,
    }
    return JobRules(
        variant=weights.variant,
        defaults=command.defaults,
        seed=command.seed,
        origin=digest_of(origin),
        lora_places=places,
    )


def sampler_settings(
    command: SampleCommand, weights: ReadyWeights, operator: OperatorSettings, plan: JobPlan | None
) -> SamplerSettings:
    """What a process needs to sample; memory is planned for what `plan` asks for."""
    import torch

    return SamplerSettings(
        weights=command.weights,
        task=weights.variant.task,
        out=command.out,
        pipeline=operator.pipeline,
        largest=None if plan is None else largest_video(plan.units),
        batch=command.batch,
        metadata=operator.metadata,
        lora_paths=command.lora_paths,
        threads=torch.get_num_threads(),
        debug=command.debug,
    )


def _lines_before_weights(command: SampleCommand) -> list[PromptLine] | None:
    """The lines, where it is known without the weights what they are for; installing takes long."""
    task = command.task or _task_of(command.weights)
    return None if task is None else _lines(command, task)


def _lines(command: SampleCommand, task: Task) -> list[PromptLine]:
    assert command.prompts is not None
    return read_prompt_lines(command.prompts, task)


def _task_of(weights: str) -> Task | None:
    path = Path(weights)
    if weights in VARIANTS:
        return variant_named(weights).task
    if weights.endswith(".lock.json") and path.is_file():
        variant = read_lock(path).variant
        return variant_named(variant).task if variant else None
    return None


def _remaining(command: SampleCommand, plan: JobPlan, store: OutputStore) -> RemainingWork:
    return remaining_work(
        plan,
        Manifest(store).records(),
        store.names(),
        overwrite=command.overwrite,
        retry_failed=command.retry_failed,
    )


def _tell_of_space(plan: JobPlan, work: RemainingWork, out: str) -> None:
    """Say on stderr where a folder may get too small. It is an estimate: no reason to refuse."""
    folder = Path(out)
    if not folder.is_dir():
        return
    missing = {line for unit in work.units for line in unit.missing}
    requests = [job.request for job in plan.jobs if job.line in missing]
    pixels = sum(r.num_frames * r.width * r.height for r in requests)
    needed = int(pixels * _BYTES_PER_PIXEL / _COMPRESSION)
    free = shutil.disk_usage(folder).free
    if needed > free:
        print(
            f"Warning: {len(missing)} clips may take {shown_size(needed)}, and the disk of {out} "
            f"has {shown_size(free)} free.",
            file=sys.stderr,
        )
