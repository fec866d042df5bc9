"""`cogvideox sample`, shared by the processes that torchrun starts: unit i is of rank i mod N.

It takes the same options, but for --ray and --parallel. Each rank writes its videos to OUT and adds
its records to the manifest there; the files are those of a single process.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from sampling.options import add_arguments
from sampling.ranks import Rank, rank_of, take_own_gpu, wait_for_all
from weights.errors import UserError

EXAMPLES = """examples:
  torchrun --nproc-per-node 8 -m sampling prompts.txt clips/ --weights cogvideox-5b
  torchrun --nproc-per-node 2 -m sampling prompts.jsonl s3://bucket/clips --batch 4

exit codes of each rank: 0 done, 1 some of its lines failed, 2 bad input or usage, 130 interrupted
"""
_INTERRUPTED = 130
_SHOWN_FAILURES = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Sample this rank's part and return its exit code, when all ranks have come as far."""
    parser = argparse.ArgumentParser(
        prog="torchrun --nproc-per-node N -m sampling",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show a traceback on errors")
    options = parser.parse_args(arguments)
    try:
        rank = rank_of(os.environ)
        code = _sample(options, rank)
        wait_for_all(rank)
    except UserError as error:
        if options.debug:
            raise
        print(f"sampling: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("sampling: interrupted. The same command goes on from here.", file=sys.stderr)
        return _INTERRUPTED
    return code


def _sample(options: argparse.Namespace, rank: Rank) -> int:
    from sampling.chosen_command import chosen_command
    from sampling.prepared_run import prepare_run
    from sampling.run import sample_prompts

    take_own_gpu(rank)
    command = chosen_command(options)
    if command.prompts is None:
        raise UserError(
            "PROMPTS is - for several processes.",
            "Only one of them could read what is typed.",
            "Write the prompts into a file, or use `cogvideox sample - OUT`.",
        )
    summary = sample_prompts(prepare_run(command).shard(rank.number, rank.world))
    if options.json:
        print(json.dumps({"rank": rank.number, **summary.to_json()}), flush=True)
    elif rank.number == 0:
        print(summary.manifest, flush=True)
    # Those of earlier runs, too: torchrun itself says no more than the exit code.
    for line in sorted(summary.failed)[:_SHOWN_FAILURES]:
        print(f"Line {line}: {summary.failed[line]}", file=sys.stderr, flush=True)
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
