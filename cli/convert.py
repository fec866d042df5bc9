"""Turn a SAT checkpoint into a diffusers folder that plain `from_pretrained` loads."""

import argparse
import json
import sys
from pathlib import Path

from cli.progress import byte_progress

EXAMPLES = """examples:
  cogvideox convert CogVideoX-5b-sat checkpoints/cogvideox-5b --text-encoder t5-v1_1-xxl
  cogvideox convert ckpts/my-finetune checkpoints/mine --config model.yaml --vae 3d-vae.pt
  cogvideox convert CogVideoX-2b-sat checkpoints/cogvideox-2b --dtype fp16

SRC is SAT's layout: transformer/latest, transformer/STEP/mp_rank_00_model_states.pt,
vae/3d-vae.pt and, if there is one, model.yaml and the folder of the T5.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SRC", help="SAT directory")
    parser.add_argument("destination", type=Path, metavar="DST", help="the folder to write")
    parser.add_argument("--config", type=Path, metavar="YAML", help="default: SRC/model.yaml")
    parser.add_argument("--vae", type=Path, metavar="FILE", help="default: SRC/vae/3d-vae.pt")
    parser.add_argument(
        "--text-encoder",
        type=Path,
        metavar="DIR",
        help="T5 and tokenizer; default: the folder that model.yaml names, or SRC/t5-v1_1-xxl",
    )
    parser.add_argument(
        "--dtype", choices=("fp16", "bf16", "fp32"), help="default: as in the checkpoint"
    )
    parser.add_argument("--json", action="store_true", help="print the conversion record")


def run(options: argparse.Namespace) -> int:
    from conversion.convert import convert
    from conversion.new_folder import check_destination
    from conversion.plan import DTYPES, plan_conversion

    check_destination(options.destination)
    plan = plan_conversion(
        options.source,
        config=options.config,
        vae=options.vae,
        text_encoder=options.text_encoder,
        dtype=DTYPES[options.dtype] if options.dtype else None,
    )
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)
    with byte_progress("Converting", plan.total_bytes) as advance:
        convert(plan, options.destination, advance)
    if options.json:
        record = json.loads((options.destination / "conversion.json").read_text())
        print(json.dumps(record, indent=2))
    else:
        left_out = sum(len(model.left_out) for model in plan.models)
        print(
            f"{options.destination}: {plan.detection.variant.name}, {plan.folder_dtype}, "
            f"{sum(len(m.plan.tensors) for m in plan.models)} tensors, "
            f"{plan.total_bytes / 1e6:,.1f} MB, {left_out} entries left out "
            f"(listed in conversion.json)"
        )
    return 0
