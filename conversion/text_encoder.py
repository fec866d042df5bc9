"""The T5 and its tokenizer: found, checked, linked or copied as files, never loaded."""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from conversion.sat_config import SatConfig
from weights.errors import OperationError, UserError

_TOKENIZER_FILES = (
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)

# What is wanted of a hub repository: diffusers' two folders, or all files at the top.
_HUB_PATTERNS = (
    *("text_encoder/*", "tokenizer/*", "config.json"),
    *("model*.safetensors", "model.safetensors.index.json", *_TOKENIZER_FILES),
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """A T5 encoder and its tokenizer on disk; both folders may be the same."""

    model: Path
    tokenizer: Path
    model_files: tuple[str, ...]
    tokenizer_files: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        files = [self.model / name for name in self.model_files]
        files += [self.tokenizer / name for name in self.tokenizer_files]
        return sum(file.stat().st_size for file in files)


def missing_text_encoder_advice(text_tokens: int, width: int) -> str:
    """What to add to a folder that was written without text encoder."""
    return (
        f"No text encoder was found, so the folder has none. Add one with --text-encoder: a "
        f"folder with the T5 encoder (width {width}, {text_tokens} tokens a prompt) and its "
        f"tokenizer, or the hub id of a model that has both; the T5 of zai-org/CogVideoX-2b "
        f"serves all released variants."
    )


def _from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=list(_HUB_PATTERNS)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise OperationError(
            f"The text encoder {repository} is no folder here and cannot be had from the hub "
            f"({str(error).strip().splitlines()[0]}).",
            "A folder with a T5 encoder and its tokenizer, or the id of such a model is expected.",
            "Check the spelling and the network, and whether the model needs a login.",
        ) from error


def find_text_encoder(root: Path, given: str | None, config: SatConfig | None) -> Path | None:
    """The folder or hub id given, else the folder `model.yaml` names or SAT's usual one in `root`.

    Raises:
        UserError: the folder given is not there.
        OperationError: the hub id given cannot be downloaded.
    """
    if given is not None:
        if Path(given).is_dir():
            return Path(given)
        if _HUB_ID.fullmatch(given):
            return _from_hub(given)
        raise UserError(
            f"There is no folder {given}.",
            "--text-encoder expects a folder with a T5 encoder and its tokenizer, or a hub id.",
            "Check the path.",
        )
    names = ["t5-v1_1-xxl"]
    if config is not None and config.text_encoder is not None:
        # A fine-tune's yaml may hold an absolute path of the machine it was trained on.
        names.insert(0, Path(config.text_encoder).name)
    return next((root / name for name in names if (root / name).is_dir()), None)


def _model_files(folder: Path) -> tuple[str, ...]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        names = ("config.json", index.name, *shards)
    else:
        names = ("config.json", "model.safetensors")
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise UserError(
                f"The text encoder {folder} has no file {name}.",
                "config.json and safetensors weights are expected.",
                "Complete the folder; weights saved as pytorch_model.bin must be saved again as "
                "safetensors.",
            )
    return names


def read_text_encoder(folder: Path, width: int) -> TextEncoder:
    """Check a text encoder folder: SAT's (all in one) or diffusers' (two folders side by side).

    Args:
        folder: holds the T5 and the tokenizer, or `text_encoder/` and `tokenizer/`.
        width: the text width that the transformer was trained with.

    Raises:
        UserError: a file is missing, or the T5 is of another width.
    """
    pair = (folder / "text_encoder", folder / "tokenizer")
    model, tokenizer = pair if pair[0].is_dir() else (folder, folder)
    model_files = _model_files(model)
    found = json.loads((model / "config.json").read_bytes()).get("d_model")
    if found != width:
        raise UserError(
            f"The text encoder {model} has the width {found}.",
            f"The transformer was trained with {width}.",
            "Give the T5 it was trained with.",
        )
    tokenizer_files = tuple(name for name in _TOKENIZER_FILES if (tokenizer / name).is_file())
    if not {"spiece.model", "tokenizer.json"} & set(tokenizer_files):
        raise UserError(
            f"The tokenizer {tokenizer} has neither spiece.model nor tokenizer.json.",
            "The tokenizer of the T5 is expected.",
            "Add the files that came with the T5.",
        )
    return TextEncoder(model, tokenizer, model_files, tokenizer_files)


def _link_or_copy(source: Path, target: Path) -> None:
    """A hard link costs neither time nor space; across file systems it must be a copy."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def write_text_encoder(encoder: TextEncoder, folder: Path) -> list[str]:
    """Link or copy into `folder/text_encoder` and `folder/tokenizer`.

    transformers 5 reads `tokenizer.json` and transformers 4 `spiece.model`: where only the latter
    is there, the former is made from it.

    Returns:
        The paths of the files, relative to `folder`.
    """
    for part, source, names in (
        ("text_encoder", encoder.model, encoder.model_files),
        ("tokenizer", encoder.tokenizer, encoder.tokenizer_files),
    ):
        shutil.rmtree(folder / part, ignore_errors=True)
        (folder / part).mkdir()
        for name in names:
            _link_or_copy(source / name, folder / part / name)
    if "tokenizer.json" not in encoder.tokenizer_files:
        _write_fast_tokenizer(encoder, folder / "tokenizer")
    return sorted(
        path.relative_to(folder).as_posix()
        for part in ("text_encoder", "tokenizer")
        for path in (folder / part).iterdir()
    )


def _write_fast_tokenizer(encoder: TextEncoder, folder: Path) -> None:
    from transformers import T5Tokenizer

    tokenizer = T5Tokenizer.from_pretrained(encoder.tokenizer)
    # transformers writes configs in place: through a hard link that would alter the source.
    for name in encoder.tokenizer_files:
        if name != "spiece.model":
            (folder / name).unlink()
    tokenizer.save_pretrained(folder)
