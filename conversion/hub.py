"""Puts a converted folder on the Hugging Face Hub, with a model card made from its record."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weights.errors import OperationError, UserError
from weights.variants import PIPELINES, VARIANTS, Variant

_HUB_TASKS = {"t2v": "text-to-video", "i2v": "image-to-video"}


def _licence(variant: Variant) -> list[str]:
    if variant.licence.startswith("Apache-2.0"):
        return ["license: apache-2.0"]
    link = "https://huggingface.co/zai-org/CogVideoX-5b/blob/main/LICENSE"
    return ["license: other", "license_name: cogvideox-license", f"license_link: {link}"]


def model_card(record: dict[str, Any], repository: str) -> str:
    """A README for the hub, from `conversion.json`: what it is, how to load it, its sources."""
    variant = VARIANTS[record["variant"]]
    sources = "\n".join(
        f"| `{s['path']}` | {s['size']} | `{s['digest']}` |" for s in record["sources"]
    )
    header = [
        *_licence(variant),
        "library_name: diffusers",
        f"pipeline_tag: {_HUB_TASKS[variant.task]}",
        "tags: [cogvideox]",
    ]
    return "\n".join(
        [
            "---",
            *header,
            "---",
            "",
            f"# {repository.split('/')[-1]}",
            "",
            f"A model built like `{variant.name}` ({variant.task}), converted from a SAT "
            f"checkpoint to diffusers by {record['tool']} {record['version']}. "
            f"Dtype: {record['dtype']}.",
            "",
            "```python",
            "import torch",
            f"from diffusers import {PIPELINES[variant.task]}",
            "",
            f"pipe = {PIPELINES[variant.task]}.from_pretrained(",
            f'    "{repository}", dtype=torch.{record["dtype"]}',
            ")",
            "```",
            "",
            f"Frames: {', '.join(map(str, variant.legal_frames))}. Other counts give gibberish.",
            "",
            "| converted from | bytes | digest |",
            "|---|---|---|",
            sources,
            "",
        ]
    )


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except HFValidationError as error:
        raise UserError(
            f"{repository!r} is no name of a hub repository.",
            str(error).strip().splitlines()[0],
            "Write --push-to-hub OWNER/NAME.",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise OperationError(
            f"The hub refused {repository} ({str(error).strip().splitlines()[0]}).",
            "A token that may write there is expected, from `hf auth login` or HF_TOKEN.",
            "Check token, name and network.",
        ) from error


def reserve(repository: str) -> None:
    """Create the repository, private, if it is not there: tells early whether we may write to it.

    Raises:
        UserError: the name is no repository's.
        OperationError: the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    with _explained(repository):
        HfApi().create_repo(repository, private=True, exist_ok=True)


def push(folder: Path, repository: str) -> str:
    """Upload a converted folder and its model card; returns the address of the repository.

    Raises:
        OperationError: the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    record = json.loads((folder / "conversion.json").read_bytes())
    api = HfApi()
    with _explained(repository):
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"Add {record['variant']} converted from SAT",
        )
        api.upload_file(
            repo_id=repository,
            path_in_repo="README.md",
            path_or_fileobj=model_card(record, repository).encode(),
            commit_message="Add the model card",
        )
    return f"{api.endpoint}/{repository}"
