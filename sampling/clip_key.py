"""What an existing clip was made of, as one digest: whether it is the clip that is asked for.

In the key is what decides the frames and what the file says: the request with all blanks filled in,
the bytes of its image and of a LoRA on this disk, the weights, their 8 bits, and with whom a clip
shares its batch. Not in it is what may only change the last digits: the kind of GPU, versions of
libraries, and for a LoRA on the web what is behind its URL.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from predictors.request import Request
from weights.json_file import read_object

# Of each file of tensors whose digest nobody wrote down: so many pieces, of so many bytes.
_PIECES = 16
_PIECE_BYTES = 1 << 16


def digest_of(value: Any) -> str:
    """sha256, in hex, of `value` as JSON with sorted keys and no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """`sha256:<hex>` of a file.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


# One image or LoRA may serve many lines.
_kept_digest = lru_cache(maxsize=256)(file_digest)


def weights_identity(folder: Path) -> str:
    """What tells the weights in `folder` from others, quickly at any size.

    Where the folder was converted by us, the digests of its tensors are in its conversion.json,
    and stand for it, wherever it lies: converted, installed from a lock or copied. They are not
    compared with the tensors: who changes these by hand must remove that file. Of other folders it
    is names, sizes, configs and a sample of the bytes of each file.
    """
    record = folder / "conversion.json"
    recorded = read_object(record).get("files") if record.is_file() else None
    if isinstance(recorded, list) and recorded:
        return digest_of(sorted((file["path"], file["digest"]) for file in recorded))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest_of(
        [
            (path.relative_to(folder).as_posix(), path.stat().st_size, _sample(path))
            for path in files
        ]
    )


def _sample(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= _PIECES * _PIECE_BYTES:
            digest.update(file.read())
        else:
            for piece in range(_PIECES):
                file.seek(piece * (size - _PIECE_BYTES) // (_PIECES - 1))
                digest.update(file.read(_PIECE_BYTES))
    return digest.hexdigest()


def clip_key(
    request: Request, *, sampler: str | None, image: Path | None, lora: Path | None, origin: str
) -> str:
    """The key of a clip that is sampled alone.

    Args:
        sampler: SAT's, where it takes the place of the request's scheduler.
        image: the file of the first frame.
        lora: the request's LoRA, where it is a file of this machine.
        origin: stands for the weights and for how they compute.

    Raises:
        OSError: a file can't be read.
    """
    return digest_of(
        {
            "request": asdict(request),
            "sampler": sampler,
            "image": image and _kept_digest(image),
            "lora": lora and _kept_digest(lora),
            "origin": origin,
        }
    )


def batch_key(own: str, batch: Sequence[str]) -> str:
    """The key of a clip with the key `own` that is sampled together with those of `batch`."""
    return digest_of({"own": own, "batch": list(batch)})


def problem_key(inputs: Mapping[str, Any], problem: str) -> str:
    """The key of a line that asks for no clip: another problem is another line."""
    return digest_of({"inputs": dict(inputs), "problem": problem})
