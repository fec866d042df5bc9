"""`cogvideox VERB`: finds the verb's module, runs it, turns errors into messages and exit codes."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from weights.errors import UserError

# One line per verb, here and not in the verbs' modules, so that `--help` imports none of them.
VERBS = {
    "demo": "the whole way from a SAT checkpoint to a served MP4, on this machine",
    "inspect": "say what a checkpoint is, from its keys and shapes",
    "convert": "turn a SAT checkpoint into a diffusers folder, or back",
    "convert-lora": "turn a SAT LoRA into an adapter file for diffusers",
    "verify": "compare a converted folder with its source, value by value",
    "nano": "convert and pack the nano models that ship with the project",
    "pack": "write a weights folder as a reproducible tarball and its lock",
    "push": "upload a packed tarball and write its url into the lock",
    "sign": "sign packed weights with a private key",
    "fetch": "install the weights a lock names, verified and all at once",
    "verify-install": "check an installed weights folder, quickly or every byte",
    "cache": "list, remove and prune installed weights",
    "serve": "run a predictor on the real Cog server, without Docker",
    "predict": "run one prediction through the real Cog server",
    "sample": "sample a video for each line of a prompt file, resumable, on one GPU or many",
    "train": "fine-tune a model on clips, to a LoRA or to whole weights",
    "plan": "say how a variant would be held in a GPU's memory",
    "bench": "measure speed and memory on this machine's GPU",
    "schema": "print the OpenAPI schema of a predictor",
    "variants": "list the model variants and their rules",
}


def _usage() -> str:
    verbs = "\n".join(f"  {verb:14} {line}" for verb, line in VERBS.items())
    return (
        "usage: cogvideox VERB [--debug] ...\n\n"
        "From a CogVideoX training checkpoint to a video API.\n\n"
        f"verbs:\n{verbs}\n\n"
        "`cogvideox VERB --help` shows a verb's options with examples.\n"
        "exit codes: 0 done, 1 failed, 2 wrong usage or bad input.\n"
    )


def _parser(verb: str) -> argparse.ArgumentParser:
    module = importlib.import_module(f"cli.{verb.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=f"cogvideox {verb}",
        description=module.__doc__,
        epilog=module.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show a traceback on errors")
    parser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code: 0 done, 1 failed, 2 wrong usage or bad input."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage(), end="")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        print(f"cogvideox: there is no verb {verb!r}.\n\n{_usage()}", file=sys.stderr, end="")
        return 2
    options = _parser(verb).parse_args(rest)
    try:
        return int(options.run(options))
    except UserError as error:
        if options.debug:
            raise
        print(f"cogvideox {verb}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if options.debug:
            raise
        print(f"cogvideox {verb}: interrupted.", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output went away (`| head`); the interpreter must not flush into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if options.debug:
            raise
        print(
            f"cogvideox {verb}: {type(error).__name__}: {error}\n"
            "This is not an error we foresaw. Run it again with --debug for the traceback.",
            file=sys.stderr,
        )
        return 1


def entry_point() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry_point()
