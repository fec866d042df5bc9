"""What the input `lora` may name, read without asking the network.

Everything else is refused here, and what is a page for people becomes what it is the page of.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit, urlunsplit

from weights.errors import UserError
from weights.paths import path_problem
from weights.urls import url_problem

FOLDERS_VARIABLE = "COGVIDEOX_LORA_PATHS"
HUGGING_FACE_VARIABLE = "HF_ENDPOINT"
HUGGING_FACE = "https://huggingface.co"
CIVITAI = "https://civitai.com"

SUFFIX = ".safetensors"
# Longer is no URL that a server takes.
_MAX_CHARACTERS = 4096
_WEB = re.compile(r"https?://", re.IGNORECASE)
_HUGGING_FACE_HOSTS = {"huggingface.co", "www.huggingface.co", "hf.co"}
_CIVITAI_HOSTS = {"civitai.com", "www.civitai.com"}
_DEFAULT_PORTS = {"http": 80, "https": 443}
# What huggingface_hub's validate_repo_id takes, but always with an owner.
_REPO = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
_CIVITAI_MODEL = re.compile(r"/models/([0-9]{1,12})(?:/[^/]*)?/?")
_FORMS = (
    "An https:// URL of a .safetensors file or of a tar with one, owner/repo or "
    "owner/repo/file.safetensors on Hugging Face, or the URL of a model on Civitai is expected."
)


@dataclass(frozen=True, slots=True)
class LoraPlaces:
    """Where LoRAs may come from, as the operator set it: folders of this machine, and the hubs."""

    folders: tuple[Path, ...] = ()
    hugging_face: str = HUGGING_FACE
    civitai: str = CIVITAI


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine, in a folder that the operator allows. `path` has no links."""

    path: Path


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file on the web. Two ways to write a URL that mean the same are the same `url`."""

    url: str


@dataclass(frozen=True, slots=True)
class HubRepo:
    """A repository on Hugging Face, and the file in it; "" where it has to be found."""

    repo: str
    revision: str = "main"
    file: str = ""


@dataclass(frozen=True, slots=True)
class CivitaiModel:
    """A model on Civitai, of which the newest version is meant."""

    number: int


Source = LocalFile | WebFile | HubRepo | CivitaiModel


def lora_places_from_environment(environment: Mapping[str, str]) -> LoraPlaces:
    """The places that COGVIDEOX_LORA_PATHS and HF_ENDPOINT name.

    Raises:
        UserError: one is not a folder, or not a URL.
    """
    folders = filter(None, environment.get(FOLDERS_VARIABLE, "").split(os.pathsep))
    hub = environment.get(HUGGING_FACE_VARIABLE, "").rstrip("/") or HUGGING_FACE
    if not _WEB.match(hub) or url_problem(hub) or "@" in hub:
        raise UserError(
            f"{HUGGING_FACE_VARIABLE} is {_shown(hub)}.",
            "The URL of a server that answers as Hugging Face does is expected, without password.",
            f"Write it like {HUGGING_FACE}, or unset it.",
        )
    return LoraPlaces(tuple(map(_folder, folders)), hub)


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or not path.is_dir():
        raise UserError(
            f"{FOLDERS_VARIABLE} names {text!r}, which is not a folder's absolute path.",
            f"Folders with LoRA files are expected, with {os.pathsep!r} between them.",
            "Correct it, or unset it to allow URLs only.",
        )
    return path.resolve()


def parse_source(text: str, places: LoraPlaces) -> Source:
    """What `text` names.

    Raises:
        UserError: none of the forms, or not for everyone to name.
    """
    text = text.strip()
    if len(text) > _MAX_CHARACTERS or not text.isprintable():
        raise _no_form(f"lora has {len(text)} characters, or some that can't be printed.")
    if text.startswith("/"):
        return _local(text, places.folders)
    if _WEB.match(text):
        return _web(text, places)
    if "://" not in text and text.count("/") >= 1:
        return _repo(text)
    raise _no_form(f"lora is {_shown(text)}.")


def _shown(text: str) -> str:
    """`text` for a message, without what may be secret in a URL."""
    scheme, mark, _ = text.partition("://")
    text = f"{scheme}://…" if mark else text
    return repr(text if len(text) <= 120 else f"{text[:119]}…")


def _no_form(given: str) -> UserError:
    return UserError(given, _FORMS, "Write it in one of these forms.")


def _local(text: str, folders: tuple[Path, ...]) -> LocalFile:
    try:
        path = Path(text).resolve()
        if any(path.is_relative_to(folder) for folder in folders):
            return LocalFile(_existing(path))
    except (OSError, RuntimeError):  # a name that is too long, a circle of links
        pass
    # The same whether there is such a file or not: that is nobody's business.
    raise UserError(
        f"lora is {_shown(text)}, which is not in a folder for LoRAs.",
        "A path is allowed below the folders that the operator names."
        if folders
        else "No path on the server is allowed here; URLs and Hugging Face repositories are.",
        f"Use a URL, or have the operator name the folder in {FOLDERS_VARIABLE}.",
    )


def _existing(path: Path) -> Path:
    if path.suffix != SUFFIX or not path.is_file():
        raise UserError(
            f"There is no LoRA file {_shown(str(path))}.",
            f"A {SUFFIX} file is expected there.",
            "Check the path.",
        )
    return path


def _web(text: str, places: LoraPlaces) -> Source:
    # What follows # is for browsers.
    text = text.partition("#")[0].strip()
    problem = url_problem(text)
    if problem:
        raise _no_form(f"The URL in lora {problem}.")
    parts = urlsplit(text)
    if "@" in parts.netloc:
        raise UserError(
            "The URL in lora holds a user's name or a password.",
            "These are not sent from here.",
            "Use a URL that everyone may download from, or a presigned one.",
        )
    host = parts.hostname or ""
    source: Source | None = None
    if host in _HUGGING_FACE_HOSTS:
        source = _hugging_face_page(parts.path)
    elif host in _CIVITAI_HOSTS:
        source = _civitai_page(parts, places)
    return source or WebFile(_canonical(parts))


def _canonical(parts: SplitResult) -> str:
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{parts.port}"
    return urlunsplit((parts.scheme, host + port, parts.path or "/", parts.query, ""))


def _hugging_face_page(path: str) -> HubRepo | None:
    """The repository or the file that the page at `path` is of, if any."""
    owner_repo, rest = _split(path.strip("/"), 2)
    if rest == "":
        return _repo(owner_repo)
    kind, rest = _split(rest, 1)
    revision, file = _split(rest, 1)
    if kind not in ("tree", "blob", "resolve") or not revision:
        return None
    if kind == "tree":
        return _hub_repo(owner_repo, unquote(revision), "")
    return _hub_repo(owner_repo, unquote(revision), unquote(file))


def _split(path: str, count: int) -> tuple[str, str]:
    """The first `count` parts of `path`, and the others."""
    parts = path.split("/")
    return "/".join(parts[:count]), "/".join(parts[count:])


def _repo(text: str) -> HubRepo:
    repo, file = _split(text, 2)
    return _hub_repo(repo, "main", file)


def _hub_repo(repo: str, revision: str, file: str) -> HubRepo:
    owner, _, name = repo.partition("/")
    if not all(_REPO.fullmatch(part) and not re.search(r"--|\.\.", part) for part in (owner, name)):
        raise _no_form(f"lora is {_shown(repo)}, which is no repository's name.")
    if file and path_problem(file):
        raise _no_form(f"lora names the file {_shown(file)}, which {path_problem(file)}.")
    if file and not file.endswith(SUFFIX):
        raise UserError(
            f"lora names the file {_shown(file)}.",
            f"A {SUFFIX} file is expected: other formats can run code when they are read.",
            f"Name a {SUFFIX} file of {repo}, or leave the file out to have it found.",
        )
    return HubRepo(repo, revision, file)


def _civitai_page(parts: SplitResult, places: LoraPlaces) -> Source | None:
    """The model or the version of it that a page is of, if any."""
    model = _CIVITAI_MODEL.fullmatch(parts.path)
    if model is None:
        return None
    version = parse_qs(parts.query).get("modelVersionId", [""])[0]
    if re.fullmatch(r"[0-9]{1,12}", version):
        return civitai_version(int(version), places)
    return CivitaiModel(int(model[1]))


def civitai_version(number: int, places: LoraPlaces) -> WebFile:
    """The main file of one version of a model on Civitai."""
    return WebFile(f"{places.civitai}/api/download/models/{number}")
