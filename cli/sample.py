"""Sample a video for each line of a prompt file, on one GPU, on several or on several machines.

PROMPTS is text with a prompt a line (for image-to-video prompt@@image.png), or JSONL, CSV or
Parquet with any field of a request as column; - takes prompts as they are typed. OUT gets one video
a line, 000001.mp4 and so on, and manifest.jsonl, which says how each was made or why not. Seeds
follow the line. The same command again does what is missing, and no more.
"""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from cli.serve import tell
from sampling import options as sampling_options
from sampling.interruption import interruptible
from weights.errors import UserError

if TYPE_CHECKING:
    from sampling.parallel.layouts import Layout
    from sampling.prepared_run import PreparedRun, SampleCommand
    from sampling.run import Executor, Summary

EXAMPLES = """examples:
  cogvideox sample prompts.txt clips/
  cogvideox sample prompts.csv clips/ --weights cogvideox-5b --batch 4 --num-inference-steps 30
  cogvideox sample prompts.jsonl s3://bucket/clips --weights cogvideox-5b --retry-failed
  cogvideox sample - clips/
  cogvideox sample --sat-config model.yaml --inference inference.yaml
  cogvideox sample prompts.txt clips/ --scheduler sat
  cogvideox sample prompts.txt /shared/clips --ray auto
  cogvideox sample prompts.txt clips/ --parallel 4
  torchrun --nproc-per-node 8 -m sampling prompts.txt clips/ --weights cogvideox-5b

exit codes: 0 every line has its video, 1 some failed, 2 bad input or usage, 130 interrupted
"""
_INTERRUPTED = 130
_SHOWN_FAILURES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sampling_options.add_arguments(parser)
    group = parser.add_argument_group("several GPUs")
    group.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="share the lines between workers of a Ray cluster, HOST:PORT or auto; "
        "without an address one is started on this machine",
    )
    group.add_argument("--workers", type=int, metavar="N", help="of Ray (default: one per GPU)")
    group.add_argument(
        "--parallel", type=int, metavar="N", help="make each video on N GPUs of this machine"
    )


def run(options: argparse.Namespace) -> int:
    _check_executor(options)
    try:
        # Also while modules are imported and weights are installed, which takes its time.
        with interruptible():
            summary = _summary(options)
    except KeyboardInterrupt:
        tell("\ninterrupted. The same command goes on from here.")
        return _INTERRUPTED
    return _report(options, summary)


def _summary(options: argparse.Namespace) -> "Summary":
    from cli.progress import byte_progress
    from sampling.chosen_command import chosen_command
    from sampling.prepared_run import prepare_run
    from sampling.run import sample_prompts

    command = chosen_command(options, prepare=_prepare_nano, progress=byte_progress)
    if command.prompts is None:
        return _typed(options, command)
    return sample_prompts(prepare_run(command), lambda prepared: _executor(options, prepared))


def _check_executor(options: argparse.Namespace) -> None:
    if options.ray is not None and options.parallel is not None:
        raise UserError(
            "--ray and --parallel are both given.",
            "Ray shares the lines between GPUs, --parallel a video.",
            "Leave one of the two out.",
        )
    if options.workers is not None and options.ray is None:
        raise UserError(
            "--workers is given without --ray.", "They are Ray's workers.", "Add --ray."
        )
    for name, least in (("workers", 1), ("parallel", 2)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(
                f"--{name} is {value}.", f"At least {least} is expected.", "Correct the number."
            )


def _prepare_nano(weights: str) -> None:
    from cli.nano import NANO_MODELS, prepare_nano

    if weights in NANO_MODELS:
        prepare_nano(weights)


def _typed(options: argparse.Namespace, command: "SampleCommand") -> "Summary":
    from sampling.typed_prompts import sample_typed

    of_files = {
        "--ray": options.ray is not None,
        "--parallel": options.parallel is not None,
        "--batch": options.batch > 1,
        "--retry-failed": options.retry_failed,
        "--overwrite": options.overwrite,
    }
    given = [name for name, is_given in of_files.items() if is_given]
    if given:
        raise UserError(
            f"PROMPTS is - and {given[0]} is given.",
            "Typed prompts are sampled here, one after the other, each on a line that is new.",
            "Leave the option out, or write the prompts into a file.",
        )
    if sys.stdin is None:
        raise UserError(
            "PROMPTS is - and standard input is closed.",
            "Prompts are read from there.",
            "Type them, pipe them in or name a file.",
        )
    return sample_typed(command)


def _executor(options: argparse.Namespace, prepared: "PreparedRun") -> "Executor":
    from sampling.run import SequentialExecutor

    if options.ray is not None:
        from sampling.ray_cluster import RayExecutor

        return RayExecutor(prepared.settings, address=options.ray or None, workers=options.workers)
    if options.parallel is not None:
        from sampling.parallel.executor import ParallelExecutor

        return ParallelExecutor(prepared.settings, _layout(options.parallel, prepared))
    return SequentialExecutor(prepared.settings)


def _layout(devices: int, prepared: "PreparedRun") -> "Layout":
    """A layout for every video of the run.

    Raises:
        UserError: there is none for so many devices.
    """
    from predictors.memory_estimate import VideoSize
    from sampling.parallel.layouts import chosen_layout

    requests = [job.request for job in prepared.plan.jobs]
    # What has the fewest tokens is the hardest to share.
    smallest = min(requests, key=lambda each: each.num_frames * each.width * each.height)
    return chosen_layout(
        prepared.weights.variant,
        devices,
        VideoSize(smallest.num_frames, smallest.width, smallest.height),
        guidance=all(request.guidance_scale > 1 for request in requests),
    )


def _report(options: argparse.Namespace, summary: "Summary") -> int:
    if options.json:
        print(json.dumps(summary.to_json(), indent=2))
    else:
        print(summary.manifest)
    tell(
        f"{summary.lines} lines: {summary.made} clips made, {summary.kept} there before, "
        f"{len(summary.failed)} failed."
    )
    for line in sorted(summary.failed)[:_SHOWN_FAILURES]:
        tell(f"Line {line}: {summary.failed[line]}")
    return summary.exit_code
