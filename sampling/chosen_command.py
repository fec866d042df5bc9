"""What the options say, together with SAT's configuration files, as one command."""

import argparse
import os
import sys
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampling.options import (
    DEFAULT_SEED,
    MAX_BATCH,
    MAX_SEED,
    TYPED,
    chosen_weights,
    given_fields,
)
from sampling.prepared_run import SampleCommand
from sampling.sat_source import SatSource, is_sat_checkpoint
from weights.errors import UserError
from weights.variants import Task

if TYPE_CHECKING:
    from sampling.sat_inference import SatInference
    from sampling.sat_weights import SatWeights

ShowBytes = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]


def chosen_command(
    options: argparse.Namespace,
    *,
    prepare: Callable[[str], object] = lambda weights: None,
    progress: ShowBytes = lambda label, total: nullcontext(lambda count: None),
) -> SampleCommand:
    """What to do; a SAT checkpoint is converted for it. Notes go to stderr.

    Args:
        prepare: called with the name of the weights, if these are none of SAT's, before their use.
        progress: shows the bytes of a conversion.

    Raises:
        UserError: PROMPTS or OUT is missing, a number makes no sense, or SAT's files are not
            usable.
        OperationError: a SAT checkpoint can't be converted.
    """
    fields = given_fields(options)
    sat = _sat_inference(options, fields)
    prompts, out = _places(options, sat)
    task: Task | None = options.task or (sat.variant.task if sat else None)
    if sat:
        seed = {} if sat.seed is None else {"seed": sat.seed}
        fields = {**sat.options, **seed, **fields}
    seed = fields.pop("seed", DEFAULT_SEED)
    _require("--batch", options.batch, 1, MAX_BATCH)
    _require("--seed", seed, 0, MAX_SEED)
    weights, lora_paths = chosen_weights(options, task), _own_lora(fields)
    source = sat.source if sat else None
    if source is None and is_sat_checkpoint(weights):
        source = SatSource(checkpoint=Path(weights))
    if source is None:
        prepare(weights)
    else:
        converted = _converted(source, progress)
        weights = str(converted.folder)
        if converted.lora is not None and "lora" not in fields:
            fields["lora"] = str(converted.lora)
            lora_paths = (*lora_paths, converted.lora.parent)
    return SampleCommand(
        prompts=None if prompts == TYPED else Path(prompts),
        out=out,
        weights=weights,
        task=task,
        defaults=fields,
        seed=seed,
        batch=options.batch,
        overwrite=options.overwrite,
        retry_failed=options.retry_failed,
        lora_paths=lora_paths,
        check_variant=sat.check_weights if sat else lambda variant: None,
        debug=getattr(options, "debug", False),
    )


def _sat_inference(options: argparse.Namespace, given: Collection[str]) -> "SatInference | None":
    """What SAT's files say; what of it has no counterpart is listed on stderr."""
    if options.sat_config is None:
        if options.inference is not None:
            raise UserError(
                "--inference is given without --sat-config.",
                "SAT's model.yaml says which model its inference.yaml is for.",
                "Give both.",
            )
        return None
    from sampling.sat_inference import read_sat_inference

    places = [name for name in ("prompts", "out") if getattr(options, name) is not None]
    sat = read_sat_inference(
        options.sat_config,
        options.inference,
        weights=options.weights,
        given={*given, *places},
    )
    for name, value in sat.options.items():
        _tell(f"{name}: {value}")
    for note in sat.notes:
        _tell(note)
    for each in sat.ignored:
        _tell(f"Not taken over: {each}")
    return sat


def _places(options: argparse.Namespace, sat: "SatInference | None") -> tuple[str, str]:
    prompts, out = options.prompts, options.out
    if sat:
        prompts = prompts if prompts is not None or sat.prompts is None else str(sat.prompts)
        out = out if out is not None else sat.out
    if prompts is None or out is None:
        raise UserError(
            f"{'PROMPTS' if prompts is None else 'OUT'} is missing.",
            "A file of prompts is expected, and a place for the videos.",
            "Try `cogvideox sample prompts.txt clips/`.",
        )
    return prompts, out


def _converted(source: SatSource, progress: ShowBytes) -> "SatWeights":
    from sampling.sat_weights import sat_weights_folder

    with redirect_stdout(sys.stderr):
        weights = sat_weights_folder(source, progress=progress)
    for note in weights.notes:
        _tell(note)
    return weights


def _own_lora(fields: dict[str, Any]) -> tuple[Path, ...]:
    """Make the path of a file in --lora absolute; gives its folder, which whoever types may use.

    Raises:
        UserError: it can only be a file, and there is none.
    """
    lora = fields.get("lora")
    if not lora or "://" in lora:
        return ()
    # Not Path.is_file, which raises where a name is too long.
    if not os.path.isfile(lora):  # noqa: PTH113
        if lora.startswith(("/", ".")) or "/" not in lora:
            raise UserError(
                f"There is no file {lora[:200]}.",
                "--lora takes a file, a URL or a repository, as owner/name.",
                "Correct it.",
            )
        return ()
    path = Path(lora).resolve()
    fields["lora"] = str(path)
    return (path.parent,)


def _require(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise UserError(
            f"{name} is {value}.", f"{lowest} to {highest} is expected.", "Correct the number."
        )


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
