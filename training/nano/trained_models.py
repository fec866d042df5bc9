"""Loads what an earlier recipe trained, once it is sure that it fits nano."""

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from conversion.nano_text_encoder import WORDS
from training.nano.models import NANO, new_transformer, new_vae
from weights.errors import UserError

_VAE_NUMBERS = (
    "in_channels",
    "out_channels",
    "latent_channels",
    "temporal_compression_ratio",
    "block_out_channels",
    "layers_per_block",
    "norm_num_groups",
    "scaling_factor",
    "invert_scale_latents",
)
_TRANSFORMER_NUMBERS = (
    "in_channels",
    "out_channels",
    "num_layers",
    "num_attention_heads",
    "attention_head_dim",
    "time_embed_dim",
    "text_embed_dim",
    "max_text_seq_length",
    "sample_frames",
    "sample_height",
    "sample_width",
    "patch_size",
    "use_rotary_positional_embeddings",
)


@dataclass(frozen=True, slots=True)
class _Given:
    """The option that names a folder, and what is expected there."""

    option: str
    expected: str

    def refuse(self, found: str) -> UserError:
        return UserError(f"{self.option} {found}.", self.expected, "Give it another folder.")


_VAE = _Given(
    "--vae",
    f"{NANO.default_frames} frames of {NANO.height}×{NANO.width} have to become latents of "
    f"3×{NANO.sample_height}×{NANO.sample_width}: the VAE of training.nano.vae_recipe is expected.",
)
_PIPELINE = _Given(
    "--text-to-video", "The pipeline of training.nano.text_to_video_recipe is expected."
)


@dataclass(frozen=True, slots=True)
class TextToVideo:
    """The trained parts of nano's text-to-video pipeline, float32, in evaluation mode."""

    vae: Any
    transformer: Any
    text_encoder: Any
    tokenizer: Any


def _document(path: Path, given: _Given) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: it isn't there, or is none.
    """
    if not path.parent.is_dir():
        raise given.refuse(f"{path.parent} is no folder")
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise given.refuse(f"{path} can't be read ({error})") from None
    if not isinstance(found, dict):
        raise given.refuse(f"{path} holds no JSON object")
    return found


def _check_class(found: dict[str, Any], name: str, folder: Path, given: _Given) -> None:
    if (other := found.get("_class_name")) != name:
        raise given.refuse(f"{folder} holds the class {other} instead of {name}")


def _check_numbers(
    found: dict[str, Any], wanted: dict[str, Any], names: Iterable[str], folder: Path, given: _Given
) -> None:
    for name in names:
        # JSON has no tuples, and a config may leave out what is the default.
        value, due = found.get(name, wanted[name]), wanted[name]
        if value != (list(due) if isinstance(due, tuple) else due):
            raise given.refuse(f"{folder} has the {name} {value} where nano has {due}")


@contextmanager
def _without_logs() -> Iterator[None]:
    """What goes wrong is said once, by us."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _unreadable(folder: Path, error: Exception, given: _Given) -> UserError:
    first_line = str(error).partition("\n")[0].rstrip(". ")
    return given.refuse(f"{folder} can't be loaded ({first_line})")


def _load(kind: Any, folder: Path, given: _Given, **dtype: torch.dtype) -> Any:
    """A model in evaluation mode, every weight of it from `folder`.

    Raises:
        UserError: a weight is missing or of another shape, or the file can't be read.
    """
    options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    try:
        with _without_logs():
            model, info = kind.from_pretrained(folder, **options, **dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unreadable(folder, error, given) from None
    if missing := sorted(info["missing_keys"]):
        raise given.refuse(f"{folder} lacks the weight {missing[0]}")
    return model.eval()


def _load_vae(folder: Path, given: _Given) -> Any:
    from diffusers import AutoencoderKLCogVideoX

    config = _document(folder / "config.json", given)
    _check_class(config, "AutoencoderKLCogVideoX", folder, given)
    _check_numbers(config, dict(new_vae().config), _VAE_NUMBERS, folder, given)
    return _load(AutoencoderKLCogVideoX, folder, given, torch_dtype=torch.float32)


def _load_transformer(folder: Path, given: _Given) -> Any:
    from diffusers import CogVideoXTransformer3DModel

    config = _document(folder / "config.json", given)
    _check_numbers(config, dict(new_transformer().config), _TRANSFORMER_NUMBERS, folder, given)
    return _load(CogVideoXTransformer3DModel, folder, given, torch_dtype=torch.float32)


def _load_text_encoder(folder: Path, given: _Given) -> Any:
    from transformers import T5EncoderModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    wanted = {"d_model": NANO.text_embed_dim}
    _check_numbers(_document(folder / "config.json", given), wanted, wanted, folder, given)
    return _load(T5EncoderModel, folder, given, dtype=torch.float32)


def _load_tokenizer(folder: Path, given: _Given) -> Any:
    """The tokenizer, which has to have a token for every word of nano's prompts."""
    from transformers import T5Tokenizer

    if not folder.is_dir():
        raise given.refuse(f"{folder} is no folder")
    try:
        tokenizer = T5Tokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error, given) from None
    known = tokenizer.get_vocab()
    for word in WORDS:
        if f"▁{word}" not in known:
            raise given.refuse(f"{folder} has no token for the word {word!r}")
    return tokenizer


def load_vae(folder: Path) -> Any:
    """The diffusers VAE in `folder`, float32, in evaluation mode.

    Raises:
        UserError: there is none, or it isn't nano's.
    """
    return _load_vae(folder, _VAE)


def load_text_to_video(folder: Path) -> TextToVideo:
    """The parts of the diffusers pipeline in `folder`.

    Raises:
        UserError: there is none, or it isn't nano's.
    """
    _check_class(
        _document(folder / "model_index.json", _PIPELINE), "CogVideoXPipeline", folder, _PIPELINE
    )
    return TextToVideo(
        vae=_load_vae(folder / "vae", _PIPELINE),
        transformer=_load_transformer(folder / "transformer", _PIPELINE),
        tokenizer=_load_tokenizer(folder / "tokenizer", _PIPELINE),
        text_encoder=_load_text_encoder(folder / "text_encoder", _PIPELINE),
    )
