"""Turn a SAT checkpoint into a diffusers folder that plain `from_pretrained` loads, or back.

SRC is SAT's layout (transformer/latest, transformer/STEP/mp_rank_00_model_states.pt,
vae/3d-vae.pt, perhaps model.yaml and the folder of the T5) or a checkpoint file; with --to sat it
is a diffusers folder.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cli.progress import byte_progress
from weights.errors import UserError
from weights.variants import VARIANTS

if TYPE_CHECKING:
    from conversion.plan import LoraChoice
    from conversion.safetensors_writer import Cast

EXAMPLES = """examples:
  cogvideox convert CogVideoX-5b-sat checkpoints/cogvideox-5b --text-encoder zai-org/CogVideoX-2b
  cogvideox convert ckpts/my-finetune checkpoints/mine --config model.yaml --vae 3d-vae.pt
  cogvideox convert CogVideoX-2b-sat checkpoints/cogvideox-2b --dtype fp16 --resume
  cogvideox convert checkpoints/mine mine-sat --to sat
"""


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `convert` and `convert-lora` share."""
    parser.add_argument("--config", type=Path, metavar="YAML", help="default: SRC/model.yaml")
    parser.add_argument("--vae", type=Path, metavar="FILE", help="default: SRC/vae/3d-vae.pt")
    parser.add_argument(
        "--text-encoder",
        metavar="DIR",
        help="T5 and tokenizer: a folder or a hub id; default: the folder that model.yaml names, "
        "or SRC/t5-v1_1-xxl",
    )
    parser.add_argument("--variant", choices=VARIANTS, help="override what the tensors tell")
    parser.add_argument(
        "--dtype", choices=("fp16", "bf16", "fp32"), help="default: as in the checkpoint"
    )
    parser.add_argument(
        "--allow-overflow", action="store_true", help="let values too large for fp16 be infinite"
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help="cut a learned position table to N frames"
    )
    parser.add_argument(
        "--alpha", type=float, default=1.0, help="SAT's lora_alpha (default: %(default)g)"
    )
    parser.add_argument("--resume", action="store_true", help="go on where a run was interrupted")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SRC", help="SAT directory or .pt file")
    parser.add_argument("destination", type=Path, metavar="DST", help="the folder to write")
    parser.add_argument("--to", choices=("diffusers", "sat"), default="diffusers")
    lora = parser.add_mutually_exclusive_group()
    lora.add_argument("--merge", action="store_true", help="add the checkpoint's LoRA to it")
    lora.add_argument("--without-lora", action="store_true", help="leave its LoRA out")
    add_source_arguments(parser)
    parser.add_argument(
        "--push-to-hub",
        metavar="OWNER/NAME",
        help="then upload the folder to the Hugging Face Hub, private, with a model card",
    )


def refuse_unused(options: argparse.Namespace, names: Sequence[str], where: str) -> None:
    """Raises UserError when one of the options was given: it would be ignored there."""
    for name in names:
        if getattr(options, name) not in (None, False):
            raise UserError(
                f"--{name.replace('_', '-')} was given {where}.",
                "It has no effect there.",
                "Leave it out.",
            )


def chosen_cast(options: argparse.Namespace) -> "Cast":
    """The dtype options as the writer takes them."""
    from conversion.plan import DTYPES
    from conversion.safetensors_writer import Cast

    return Cast(DTYPES[options.dtype] if options.dtype else None, options.allow_overflow)


@contextmanager
def _telling_what_is_kept(destination: Path) -> Iterator[None]:
    from conversion.resumable_folder import partial_path

    try:
        yield
    except BaseException:
        if (partial := partial_path(destination)).is_dir():
            print(
                f"What is complete is kept in {partial}: the same command with --resume goes on "
                f"from there. Without need of it, remove that folder.",
                file=sys.stderr,
            )
        raise


def run_conversion(options: argparse.Namespace, lora: "LoraChoice") -> int:
    """SAT to diffusers."""
    from conversion.convert import convert
    from conversion.new_folder import check_destination
    from conversion.plan import ConversionOptions, plan_conversion

    check_destination(options.destination)
    plan = plan_conversion(
        options.source,
        ConversionOptions(
            config=options.config,
            vae=options.vae,
            text_encoder=options.text_encoder,
            variant=options.variant,
            cast=chosen_cast(options),
            frames=options.frames,
            lora=lora,
            alpha=options.alpha,
        ),
    )
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)
    with (
        _telling_what_is_kept(options.destination),
        byte_progress("Converting", plan.total_bytes) as advance,
    ):
        convert(plan, options.destination, resume=options.resume, advance=advance)
    if options.json:
        record = json.loads((options.destination / "conversion.json").read_text())
        print(json.dumps(record, indent=2))
    else:
        left_out = sum(len(model.left_out) for model in plan.models)
        print(
            f"{options.destination}: {plan.detection.variant.name}, {plan.dtype}, "
            f"{sum(len(m.plan.tensors) for m in plan.models)} tensors, "
            f"{plan.total_bytes / 1e6:,.1f} MB, {left_out} entries left out "
            f"(listed in conversion.json)"
        )
    return 0


_FORWARD_ONLY = (
    *("config", "vae", "text_encoder", "variant", "dtype", "allow_overflow", "frames", "resume"),
    *("merge", "without_lora", "push_to_hub"),
)


def _run_inverse(options: argparse.Namespace) -> int:
    from conversion.sat_writer import plan_sat, write_sat

    refuse_unused(options, _FORWARD_ONLY, "with --to sat")
    plan = plan_sat(options.source)
    with byte_progress("Converting", plan.total_bytes) as advance:
        write_sat(plan, options.destination, advance=advance)
    files = [str(options.destination / file.path) for file in plan.files]
    if options.json:
        print(json.dumps({"variant": plan.variant.name, "files": files}, indent=2))
    else:
        print(
            f"{options.destination}: {plan.variant.name} in SAT's layout, "
            f"{sum(len(file.plan.tensors) for file in plan.files)} tensors, "
            f"{plan.total_bytes / 1e6:,.1f} MB"
        )
    return 0


def _lora_choice(options: argparse.Namespace) -> "LoraChoice":
    if options.merge:
        return "merge"
    return "leave out" if options.without_lora else "refuse"


def run(options: argparse.Namespace) -> int:
    if options.to == "sat":
        return _run_inverse(options)
    if not options.push_to_hub:
        return run_conversion(options, _lora_choice(options))
    from conversion.hub import push, reserve

    # Before the conversion: whether the hub lets us in should not be learned hours later.
    reserve(options.push_to_hub)
    run_conversion(options, _lora_choice(options))
    print(f"Uploaded to {push(options.destination, options.push_to_hub)}", file=sys.stderr)
    return 0
