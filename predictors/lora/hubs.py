"""From what a user named to the URL of one file, by asking the hub it is on where that takes it.

A revision and the newest version of a model change, so that they are asked for anew with every
request; the URL that comes of it means the same file for ever.
"""

import io
import re
from typing import Any
from urllib.parse import quote

from predictors.download import download
from predictors.lora.source import (
    SUFFIX,
    CivitaiModel,
    HubRepo,
    LoraPlaces,
    WebFile,
    civitai_version,
)
from weights.errors import OperationError, UserError
from weights.json_file import parse_object
from weights.urls import shown_url

# A repository with a hundred thousand files is described in some 10 MB.
_LIMIT_BYTES = 20_000_000
_LIMIT_SECONDS = 30.0
# What diffusers, and so most trainers, call a LoRA's file.
_USUAL_FILE = f"pytorch_lora_weights{SUFFIX}"
_MAX_SHOWN = 8
_COMMIT = re.compile(r"[0-9a-f]{40}")


def file_url(source: HubRepo | CivitaiModel | WebFile, places: LoraPlaces) -> str:
    """The URL of the file that `source` means now.

    Raises:
        UserError: there is no such repository, model or file for everyone, or more than one file.
        OperationError: the hub did not say.
    """
    if isinstance(source, HubRepo):
        return _hugging_face_url(source, places)
    if isinstance(source, CivitaiModel):
        return _civitai_url(source, places)
    return source.url


def _hugging_face_url(source: HubRepo, places: LoraPlaces) -> str:
    file, commit = source.file, source.revision
    if not file or not _COMMIT.fullmatch(commit):
        url = f"{places.hugging_face}/api/models/{source.repo}/revision/{quote(commit, safe='')}"
        document = _asked(url)
        try:
            commit = _text(document["sha"])
            files = [_text(sibling["rfilename"]) for sibling in document["siblings"]]
        except (KeyError, TypeError, ValueError):
            raise _odd(url) from None
        file = _chosen(source, files)
    return f"{places.hugging_face}/{source.repo}/resolve/{quote(commit, safe='')}/{quote(file)}"


def _chosen(source: HubRepo, files: list[str]) -> str:
    """The file of a repository that is the LoRA."""
    candidates = [file for file in files if file.endswith(SUFFIX)]
    if source.file in candidates:
        return source.file
    if not source.file:
        if _USUAL_FILE in candidates:
            return _USUAL_FILE
        if len(candidates) == 1:
            return candidates[0]
    shown = ", ".join(candidates[:_MAX_SHOWN]) + (", …" if len(candidates) > _MAX_SHOWN else "")
    if source.file:
        given = f"The repository {source.repo} has no {source.file}."
    elif candidates:
        given = f"The repository {source.repo} has {len(candidates)} {SUFFIX} files."
    else:
        given = f"The repository {source.repo} has no {SUFFIX} file."
    raise UserError(
        given,
        f"A LoRA is looked for as {_USUAL_FILE}, or as the only {SUFFIX} file.",
        f"Write {source.repo}/FILE with one of: {shown}."
        if candidates
        else "Use another repository.",
    )


def _civitai_url(source: CivitaiModel, places: LoraPlaces) -> str:
    url = f"{places.civitai}/api/v1/models/{source.number}"
    document = _asked(url)
    try:
        # Civitai lists the newest first.
        number = document["modelVersions"][0]["id"]
    except (KeyError, TypeError, IndexError):
        number = None
    if type(number) is not int:
        raise _odd(url)
    return civitai_version(number, places).url


def _asked(url: str) -> dict[str, Any]:
    answer = io.BytesIO()
    download(url, answer, limit_bytes=_LIMIT_BYTES, limit_seconds=_LIMIT_SECONDS)
    try:
        return parse_object(answer.getvalue())
    except ValueError:
        raise _odd(url) from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _odd(url: str) -> OperationError:
    return OperationError(
        f"{shown_url(url)} answers with something else than a description of a model.",
        "The API of Hugging Face or Civitai is expected there.",
        "Try again later, or give the URL of the file itself.",
    )
