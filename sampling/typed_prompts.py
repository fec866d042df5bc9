"""Prompts typed one by one: the pipeline stays loaded, text encoder and all."""

import io
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

from predictors.operator_settings import operator_settings
from predictors.prompt_embeddings import PromptEmbeddings
from predictors.weights_source import resolve_weights
from sampling.clip_job import ClipJob, WorkUnit
from sampling.clip_record import bad_line_record
from sampling.clip_sampler import ClipSampler
from sampling.interruption import interruptible
from sampling.job_plan import BadLine, plan_line
from sampling.manifest import Manifest, Record
from sampling.open_store import open_store
from sampling.prepared_run import SampleCommand, job_rules, sampler_settings
from sampling.prompt_encoding import UnitEmbeddings
from sampling.prompt_lines import parse_text_line
from sampling.run import Summary, manifest_url

_NUMBERED = re.compile(r"(\d{6,})\.\w+", re.ASCII)
_PROMPT = "> "


def sample_typed(command: SampleCommand) -> Summary:
    """Sample what is typed, one line after the other, until the input ends; stdout stays empty.

    Numbers of lines go on from what OUT has. A line that can't be made is recorded, and typing goes
    on.

    Raises:
        UserError: OUT, weights or settings are not usable.
        OperationError: the weights can't be installed, there is no space left, or OUT is gone.
        KeyboardInterrupt: Ctrl-C or SIGTERM; OUT and the manifest are in order.
    """
    started = time.monotonic()
    results: dict[int, str | None] = {}
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))
        check = stack.enter_context(interruptible())
        operator = operator_settings(os.environ)
        store = open_store(command.out)
        weights = resolve_weights(command.weights, command.task)
        command.check_variant(weights.variant)
        rules = job_rules(command, weights, operator)
        manifest = Manifest(store)
        stack.callback(manifest.close)
        first = _first_free_number(manifest.records(), store.names())
        sampler = ClipSampler.load(
            sampler_settings(command, weights, operator, None), text_encoder=True
        )
        stack.callback(sampler.close)
        prompts = PromptEmbeddings(sampler.pipe, weights.variant.text_tokens)
        for number, text in enumerate(_typed_lines(), first):
            line = parse_text_line(text, number, Path.cwd(), weights.variant.task)
            assert line is not None
            planned = plan_line(line, rules)
            record = (
                bad_line_record(planned)
                if isinstance(planned, BadLine)
                else _sampled(planned, sampler, prompts)
            )
            manifest.append(record)
            results[number] = record.error
            shown = record.error or f"{record.file} in {record.seconds:.1f} s"
            print(f"Line {number}: {shown}", file=sys.stderr, flush=True)
            check()
    return Summary(
        manifest=manifest_url(store),
        lines=len(results),
        kept=0,
        made=sum(error is None for error in results.values()),
        failed={line: error for line, error in results.items() if error is not None},
        seconds=time.monotonic() - started,
    )


def _sampled(job: ClipJob, sampler: ClipSampler, prompts: PromptEmbeddings) -> Record:
    import torch

    request = job.request
    encoded = prompts.encode(
        request.prompt,
        request.negative_prompt,
        guidance=request.guidance_scale > 1 and job.sat_sampler is None,
    )
    negative = encoded.negative_prompt_embeds
    if job.sat_sampler is not None and request.guidance_scale > 1:
        negative = torch.zeros_like(encoded.prompt_embeds)
    unit = WorkUnit(number=job.line, jobs=(job,), missing=frozenset([job.line]))
    (record,) = sampler.sample(unit, UnitEmbeddings(encoded.prompt_embeds, negative))
    return record


def _typed_lines() -> Iterator[str]:
    """What is typed, without blank lines; a terminal is asked for it."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        # Bytes that are no UTF-8 then spoil their line, and not the run.
        sys.stdin.reconfigure(errors="surrogateescape")
    mark = "\ufeff"
    while True:
        if sys.stdin.isatty():
            print(_PROMPT, end="", file=sys.stderr, flush=True)
        text = sys.stdin.readline()
        if not text:
            return
        # As of a file that is piped in: only the first line has one.
        text, mark = text.removeprefix(mark), ""
        if text.strip():
            yield text


def _first_free_number(records: dict[int, Record], names: set[str]) -> int:
    numbers = [int(match[1]) for match in map(_NUMBERED.fullmatch, names) if match]
    return max([0, *records, *numbers]) + 1
