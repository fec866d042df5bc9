"""What lies where in the folder of a fine-tuning, besides what `training.run_folder` puts there."""

from pathlib import Path

CACHE = "cache"
"""Encoded clips and prompts, where no other folder is named for them."""
CONTACT_SHEET = "contact-sheet.png"
LOGS = "logs"
SAT_FOLDER = "sat"
_LORA_FILE = "pytorch_lora_weights.safetensors"
_WEIGHTS_FOLDER = "weights"


def result_path(out: Path, *, full: bool) -> Path:
    """The LoRA's file, or the weights folder of a full fine-tune."""
    return out / (_WEIGHTS_FOLDER if full else _LORA_FILE)


def validation_path(out: Path, step: int, number: int) -> Path:
    """The clip of prompt `number`, from 0, that was made after `step` steps."""
    return out / "validation" / f"step-{step:06}" / f"{number + 1}.mp4"
