"""Turn a SAT LoRA into an adapter file for diffusers, or merge it into its base.

DST.safetensors is what plain `pipe.load_lora_weights(DST)` takes; its metadata hold rank and alpha,
so that scale 1.0 means "as trained".
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cli.convert import add_source_arguments, chosen_cast, refuse_unused, run_conversion
from cli.progress import byte_progress
from weights.errors import UserError

EXAMPLES = """examples:
  cogvideox convert-lora ckpts/lora-run lora.safetensors --config model.yaml
  cogvideox convert-lora ckpts/lora-run lora.safetensors --alpha 16
  cogvideox convert-lora ckpts/lora-run checkpoints/merged --merge --vae 3d-vae.pt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SRC", help="SAT directory, run or .pt file")
    parser.add_argument(
        "destination", type=Path, metavar="DST", help="adapter.safetensors; a folder with --merge"
    )
    add_source_arguments(parser)
    parser.add_argument(
        "--merge", action="store_true", help="write a whole model with the LoRA added instead"
    )


def _adapter(options: argparse.Namespace) -> dict[str, Any]:
    from conversion.convert_lora import convert_lora, plan_lora

    unused = ("vae", "text_encoder", "frames", "resume")
    refuse_unused(options, unused, "for an adapter, without --merge")
    if options.destination.suffix != ".safetensors":
        raise UserError(
            f"The adapter was to be written to {options.destination}.",
            "A file ending in .safetensors is expected.",
            "Correct the name, or add --merge for a whole model.",
        )
    plan = plan_lora(
        options.source,
        config=options.config,
        variant=options.variant,
        alpha=options.alpha,
        cast=chosen_cast(options),
    )
    options.destination.parent.mkdir(parents=True, exist_ok=True)
    with byte_progress("Converting", plan.shard.data_size) as advance:
        convert_lora(plan, options.destination, advance=advance)
    return {
        "path": str(options.destination),
        "variant": plan.variant,
        "rank": plan.lora.rank,
        "alpha": plan.alpha,
        "layers": plan.lora.num_layers,
        "tensors": len(plan.shard.entries),
    }


def run(options: argparse.Namespace) -> int:
    if options.merge:
        return run_conversion(options, lora="merge")
    report = _adapter(options)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print(
            "{path}: LoRA for {variant}, rank {rank}, alpha {alpha:g}, {layers} layers, "
            "{tensors} tensors".format(**report)
        )
        print("note: SAT does not record alpha; give another with --alpha.", file=sys.stderr)
    return 0
