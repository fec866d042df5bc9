"""Fine-tune a model on clips: a LoRA, or with --full all of its weights.

DATA is a folder with videos/N.mp4 and labels/N.txt, one with a metadata.jsonl of file_name and
prompt (or text) on each line, or a zip of either. OUT gets the LoRA (or the weights folder), a
README.md and all that is needed to go on: the same command goes on where it was interrupted. Clips
and prompts are encoded once, into OUT/cache unless --cache names a folder that trainings share.

On several GPUs or machines: accelerate launch -m cli.main train DATA OUT ...
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, get_args

from cli.serve import tell
from training.finetuning.out_folder import CACHE, CONTACT_SHEET
from training.finetuning.settings import DroppedCaption, FinetuneSettings, Precision
from training.lr_schedules import SCHEDULES
from weights.errors import UserError
from weights.variants import VARIANTS, Variant

if TYPE_CHECKING:
    from predictors.weights_source import ReadyWeights
    from training.dataset.clip_rules import ClipRules
    from training.dataset.report import DatasetReport
    from training.finetuning.sat_settings import SatSettings

EXAMPLES = """examples:
  cogvideox train videos.zip --check --base cogvideox-5b
  cogvideox train videos/ outputs/my-lora --base checkpoints/cogvideox-5b
  cogvideox train videos/ outputs/my-lora --base cogvideox-5b --steps 2000 --checkpointing \\
      --validate-every 500 --validation-prompt "a red car in the style of mycar"
  cogvideox train videos/ outputs/tuned --base checkpoints/cogvideox-2b --full
  cogvideox train videos/ outputs/my-lora --base cogvideox-5b --sat-config sft.yaml --to sat
  accelerate launch --num_processes 8 -m cli.main train videos/ outputs/my-lora --base cogvideox-5b

exit codes: 0 done, 1 failed, 2 bad input or usage, 130 interrupted
"""

_DEFAULT = FinetuneSettings()
# SAT's sft.yaml names them: the one for a LoRA, the other for all weights.
_FULL_LEARNING_RATE = 1e-5
_INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", nargs="?", help="a folder or a zip")
    parser.add_argument("out", type=Path, metavar="OUT", nargs="?", help="the training's folder")
    parser.add_argument("--base", help="a weights folder, a *.lock.json or a variant's name")
    parser.add_argument(
        "--check", action="store_true", help="only say what of DATA would be used, and draw it"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    _add_data_arguments(parser.add_argument_group("data"))
    _add_result_arguments(parser.add_argument_group("result"))
    _add_training_arguments(parser.add_argument_group("training"))
    _add_memory_arguments(parser.add_argument_group("memory and speed"))


def _add_data_arguments(group: Any) -> None:
    group.add_argument("--skip-bad", action="store_true", help="leave out clips with problems")
    group.add_argument("--images", action="store_true", help="use pictures, as one-frame clips")
    group.add_argument("--frames", type=int, help="of a clip (default: the variant's own)")
    group.add_argument(
        "--size", metavar="WIDTHxHEIGHT", help="of a clip (default: the variant's own)"
    )
    group.add_argument("--cache", type=Path, metavar="FOLDER", help="default: OUT/cache")
    group.add_argument(
        "--sat-config",
        type=Path,
        nargs="+",
        metavar="YAML",
        help="take settings from SAT's fine-tuning files; other options go before them",
    )


def _add_result_arguments(group: Any) -> None:
    group.add_argument("--full", **_flag(), help="train all weights, for a whole weights folder")
    group.add_argument("--rank", type=int, help=_shown("rank"))
    group.add_argument("--alpha", type=float, help=f"{_shown('alpha')}; it acts with alpha / rank")
    group.add_argument(
        "--targets",
        nargs="+",
        metavar="MODULE",
        help=f"what of each block the LoRA changes (default: {' '.join(_DEFAULT.targets)})",
    )
    group.add_argument(
        "--to", choices=["diffusers", "sat"], default="diffusers", help="sat: in SAT's layout too"
    )
    group.add_argument("--ema-decay", type=float, help=_shown("ema_decay", "0: no average"))


def _add_training_arguments(group: Any) -> None:
    group.add_argument("--steps", type=int, help=_shown("steps"))
    group.add_argument("--batch", type=int, help=f"clips a GPU sees at once {_shown('batch')}")
    group.add_argument("--accumulate", type=int, help=f"batches a step {_shown('accumulate')}")
    group.add_argument(
        "--learning-rate",
        type=float,
        help=f"default: {_DEFAULT.learning_rate:g}, with --full {_FULL_LEARNING_RATE:g}",
    )
    group.add_argument("--lr-schedule", choices=SCHEDULES, help=_shown("lr_schedule"))
    group.add_argument(
        "--lr-option",
        action="append",
        metavar="NAME=VALUE",
        help="what the schedule takes besides; a list has commas",
    )
    group.add_argument("--warmup-steps", type=int, help=_shown("warmup_steps"))
    group.add_argument("--weight-decay", type=float, help=_shown("weight_decay"))
    group.add_argument("--clip-norm", type=float, help=f"of gradients {_shown('clip_norm')}")
    group.add_argument("--caption-dropout", type=float, help=_shown("caption_dropout"))
    group.add_argument(
        "--dropped-caption",
        choices=get_args(DroppedCaption),
        help="what stands for a dropped caption: the empty prompt, as diffusers and our server "
        "sample, or zeros, as SAT does (default: empty)",
    )
    group.add_argument("--image-dropout", type=float, help=_shown("image_dropout", "of i2v"))
    group.add_argument("--save-every", type=int, help=f"steps {_shown('save_every')}")
    group.add_argument("--validate-every", type=int, help="steps between validation clips")
    group.add_argument(
        "--validation-prompt",
        action="append",
        dest="validation_prompts",
        metavar="PROMPT",
        help="may come several times (default: the first captions)",
    )
    group.add_argument(
        "--tracker",
        default="tensorboard",
        help="tensorboard, none, or another that accelerate knows and that is installed",
    )
    group.add_argument("--seed", type=int, help=_shown("seed"))


def _add_memory_arguments(group: Any) -> None:
    group.add_argument("--precision", choices=get_args(Precision), help=_shown("precision"))
    group.add_argument(
        "--checkpointing", **_flag(), help="keep fewer activations: less memory, slower"
    )
    group.add_argument("--vae-tiling", **_flag(), help="encode clips in tiles: less memory there")
    group.add_argument("--eight-bit-optimizer", **_flag(), help="AdamW in 8 bits, on CUDA")
    group.add_argument(
        "--no-memory-check", action="store_true", help="begin also where the estimate is too large"
    )


def _flag() -> dict[str, Any]:
    # None where it is not given, so that it can be told from what a SAT configuration says.
    return {"action": "store_const", "const": True}


def _shown(name: str, more: str = "") -> str:
    return f"(default: {getattr(_DEFAULT, name)}{'; ' + more if more else ''})"


def chosen_settings(options: argparse.Namespace, from_sat: Mapping[str, Any]) -> FinetuneSettings:
    """The settings: options that are given, else what SAT's files say, else the defaults.

    Raises:
        UserError: a number makes no sense.
    """
    names = [field.name for field in dataclasses.fields(FinetuneSettings)]
    given = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    given |= {n: tuple(v) for n, v in given.items() if n in ("targets", "validation_prompts")}
    if options.lr_option:
        given["lr_options"] = dict(map(_lr_option, options.lr_option))
    values = {**from_sat, **given}
    if values.get("full"):
        values.setdefault("learning_rate", _FULL_LEARNING_RATE)
    return FinetuneSettings(**values)


def _lr_option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UserError(
            f"--lr-option is {text!r}.", "NAME=VALUE is expected.", "Write it like power=2."
        )
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError:
        return name, value
    return name, numbers if "," in value else numbers[0]


def chosen_base(option: str | None) -> "ReadyWeights":
    """The weights to train on; nano is made first if it is not there.

    Raises:
        UserError: none are named, or there are none of that name.
    """
    from cli.nano import NANO_MODELS, prepare_nano
    from predictors.weights_source import resolve_weights

    if not option:
        raise UserError(
            "--base is missing.",
            f"The weights to train on: a folder, a *.lock.json or one of {', '.join(VARIANTS)}.",
            "Try --base nano.",
        )
    if option in NANO_MODELS:
        prepare_nano(option)
    return resolve_weights(option, None)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, by, height = text.lower().partition("x")
    if not (by and width.isascii() and height.isascii() and width.isdigit() and height.isdigit()):
        raise UserError(
            f"--size is {text!r}.", "WIDTHxHEIGHT in pixels is expected.", "Write it like 720x480."
        )
    return int(width), int(height)


def _rules(options: argparse.Namespace, variant: Variant, sat: "SatSettings | None") -> "ClipRules":
    from training.finetuning.dataset_rules import clip_rules

    if sat:
        from training.finetuning.sat_settings import require_agreement

        require_agreement(sat, variant)
    size = _size(options.size) or (sat.size if sat else None)
    frames = options.frames or (sat.frames if sat else None)
    return clip_rules(variant, images=options.images, frames=frames, size=size)


def _report(
    data: Path, workspace: Path, base: "ReadyWeights", rules: "ClipRules"
) -> "DatasetReport":
    from training.dataset.archive import dataset_folder
    from training.dataset.check import check_dataset
    from training.finetuning.dataset_rules import token_counter

    return check_dataset(
        dataset_folder(data, workspace),
        rules,
        count_tokens=token_counter(base),
        max_tokens=base.variant.text_tokens,
    )


def _check(options: argparse.Namespace, report: "DatasetReport", rules: "ClipRules") -> int:
    """Print what of DATA is used, draw it, and say by the exit code whether all of it is."""
    from training.dataset.contact_sheet import write_contact_sheet
    from training.dataset.report import report_json, report_lines

    sheet = (options.out or Path()) / CONTACT_SHEET if report.used else None
    if sheet:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        write_contact_sheet(report, rules, sheet)
    if options.json:
        document = report_json(report, rules) | {"contact_sheet": sheet and str(sheet)}
        print(json.dumps(document, indent=2))
    else:
        print("\n".join(report_lines(report, rules)))
        print(f"Contact sheet: {sheet or 'none, without a clip'}")
    return 0 if report.used and not report.left_out else UserError.exit_code


def _train(
    options: argparse.Namespace,
    base: "ReadyWeights",
    report: "DatasetReport",
    rules: "ClipRules",
    settings: FinetuneSettings,
) -> int:
    from training.dataset.report import report_lines, require_usable
    from training.finetuning.finetune import Training, finetune

    require_usable(report, skip_bad=options.skip_bad)
    summary, *_ = report_lines(report, rules)
    tell(summary)
    for problem in (*report.left_out, *report.notes):
        tell(f"{problem.path}: {problem.found} {problem.remedy}")
    training = Training(
        base=base,
        base_name=options.base,
        clips=report.used,
        rules=rules,
        settings=settings,
        out=options.out,
        cache=options.cache,
        tracker=options.tracker,
        to_sat=options.to == "sat",
        check_memory=not options.no_memory_check,
    )
    try:
        result = finetune(training)
    except KeyboardInterrupt:
        tell("\ninterrupted. The same command goes on from where this was saved.")
        return _INTERRUPTED
    if os.environ.get("RANK", "0") != "0":
        # One of the processes of `accelerate launch`; the first one speaks for all.
        return 0
    if options.json:
        print(json.dumps({"result": str(result), "clips": len(report.used)}, indent=2))
    else:
        print(result)
    return 0


def _sat_settings(options: argparse.Namespace) -> "SatSettings | None":
    """What SAT's files say; what has no counterpart is listed on stderr."""
    if not options.sat_config:
        return None
    from training.finetuning.sat_settings import read_sat_settings

    sat = read_sat_settings(options.sat_config, options.steps)
    for name, value in sat.settings.items():
        tell(f"{name}: {value}")
    for each in sat.unmapped:
        tell(f"Not taken over: {each}")
    return sat


def run(options: argparse.Namespace) -> int:
    sat = _sat_settings(options)
    data = options.data or (sat.data if sat else None)
    if data is None or (options.out is None and not options.check):
        raise UserError(
            f"{'DATA' if data is None else 'OUT'} is missing.",
            "The clips are expected, and a folder for the training.",
            "Try `cogvideox train DATA OUT --base nano`.",
        )
    settings = chosen_settings(options, sat.settings if sat else {})
    base = chosen_base(options.base)
    rules = _rules(options, base.variant, sat)
    with ExitStack() as stack:
        # A zip that is only checked is unpacked for that long.
        unpacked = (
            options.cache or options.out / CACHE
            if options.out
            else Path(stack.enter_context(TemporaryDirectory()))
        )
        report = _report(data, unpacked, base, rules)
        if options.check:
            return _check(options, report, rules)
    return _train(options, base, report, rules, settings)
