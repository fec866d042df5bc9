"""One training that a request asks for: from a zip of videos to the tar of a LoRA."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

from predictors.outputs import new_output
from predictors.stage_log import StageLog
from predictors.weights_source import ReadyWeights
from training.dataset.archive import dataset_folder
from training.dataset.check import check_dataset
from training.dataset.clip import Clip
from training.dataset.clip_rules import ClipRules
from training.dataset.report import DatasetReport, report_lines, require_usable
from training.finetuning.dataset_rules import clip_rules, token_counter
from training.finetuning.result_archive import pack_result
from training.finetuning.settings import FinetuneSettings
from training.finetuning.training_inputs import TrainingInputs, validate
from training.finetuning.training_server import base_model
from weights.errors import UserError

_ZIP = "videos.zip"
# What a request has as an input where `cogvideox train` has an option, of which messages speak.
_INPUTS = {
    "--batch": "batch_size",
    "--checkpointing": "gradient_checkpointing",
    "--images": "images",
    "--learning-rate": "learning_rate",
    "--lr-schedule": "lr_schedule",
    "--rank": "rank",
    "--skip-bad": "skip_bad",
    "--steps": "steps",
    "--targets": "targets",
}
_OPTIONS = re.compile(rf"(?<!\S)({'|'.join(_INPUTS)})(?![\w-])")


def train_lora(inputs: Mapping[str, Any], *, record_metric: Callable[[str, float], object]) -> Path:
    """Train the LoRA that the inputs of `train.py` describe and return the path of its tar.

    Prints the progress and a line per stage; records the seconds of each stage. However it ends,
    nothing but the tar stays on the disk.

    Raises:
        UserError: an input, or the dataset, can't be used.
        OperationError: the disk is too full, or the training came to no result.
    """
    asked = validate(**inputs)
    base = base_model()
    log = StageLog(record_metric)
    with _workspace() as workspace, _told_to_callers(workspace):
        rules = clip_rules(base.variant, images=asked.images)
        with log.stage("check"):
            report = _checked_dataset(base, rules, asked, workspace)
        log.record("clips", len(report.used))
        log.record("left_out", len(report.left_out))
        clips = [
            replace(clip, prompt=with_trigger(clip.prompt, asked.trigger_word))
            for clip in report.used
        ]
        # The model card has the folder's name for a title.
        result = workspace / f"{base.variant.name}-lora"
        with log.stage("train"):
            lora = _finetune(base, clips, rules, asked.settings, result)
        tar = new_output(".tar", "lora")
        with log.stage("pack"):
            pack_result(result, lora, tar)
    return tar


def with_trigger(prompt: str, trigger: str) -> str:
    """`prompt` with the word `trigger` in front, unless that is in it in any case, or blank."""
    if not trigger or re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", prompt, re.IGNORECASE):
        return prompt
    return f"{trigger}, {prompt}"


def _checked_dataset(
    base: ReadyWeights, rules: ClipRules, asked: TrainingInputs, workspace: Path
) -> DatasetReport:
    # By a name that says something to who reads a message about it.
    named = workspace / _ZIP
    named.symlink_to(asked.videos)
    count = token_counter(base)
    report = check_dataset(
        dataset_folder(named, workspace),
        rules,
        count_tokens=lambda prompt: count(with_trigger(prompt, asked.trigger_word)),
        max_tokens=base.variant.text_tokens,
    )
    require_usable(report, skip_bad=asked.skip_bad)
    # The operator may want no prompts in the log: not the lines of the clips.
    summary, *_ = report_lines(report, rules)
    print(summary, flush=True)
    for problem in report.left_out:
        text = f"Left out: {problem.path}: {problem.found} {problem.remedy}"
        print(_for_callers(text, workspace), flush=True)
    return report


def _finetune(
    base: ReadyWeights,
    clips: Sequence[Clip],
    rules: ClipRules,
    settings: FinetuneSettings,
    out: Path,
) -> Path:
    # Only now: torch and diffusers take seconds to import, and a bad zip needs neither.
    from training.finetuning.finetune import Training, finetune

    name = base.variant.name
    return finetune(
        Training(base=base, base_name=name, clips=clips, rules=rules, settings=settings, out=out)
    )


@contextmanager
def _workspace() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="cogvideox-training-"))
    try:
        yield folder
    finally:
        # Cog raises a cancellation in this thread at any moment, in the midst of this too.
        removal = Thread(target=shutil.rmtree, args=(folder,), kwargs={"ignore_errors": True})
        removal.start()
        removal.join()


@contextmanager
def _told_to_callers(workspace: Path) -> Iterator[None]:
    """Let errors speak of what the caller knows: of the zip and its files, and of inputs."""
    try:
        yield
    except UserError as error:
        parts = (error.given, error.expected, error.remedy)
        raise type(error)(*(_for_callers(part, workspace) for part in parts)) from None


def _for_callers(text: str, workspace: Path) -> str:
    # The zip is unpacked into a folder that has its sha256 for a name.
    unpacked = rf"{re.escape(str(workspace))}/[0-9a-f]{{64}}"
    text = re.sub(f"{unpacked}(/|(?![0-9a-f]))", lambda m: "" if m[1] else _ZIP, text)
    text = text.replace(f"{workspace}/", "")
    return _OPTIONS.sub(lambda option: _INPUTS[option[1]], text)
