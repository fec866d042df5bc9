"""manifest.jsonl: what became of each prompt line, a JSON object a line, only ever added to."""

import builtins
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from sampling.output_store import OutputStore
from weights.errors import UserError
from weights.json_file import parse_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What became of a line: a file, or an `error`; then file, digest and bytes are None.

    `settings` are the fields of the request, `key` a digest of all that the clip is made of,
    `digest` is `sha256:<hex>` of the file, `bytes` its size, `seconds` how long it took. What is
    not known of a line that can't be read is None.
    """

    line: int
    prompt: str | None
    image: str | None
    seed: int | None
    settings: Mapping[str, Any]
    key: str | None
    file: str | None
    digest: str | None
    bytes: int | None
    seconds: float | None
    error: str | None

    def to_json(self) -> builtins.bytes:
        """One line of JSON in UTF-8, without a line break.

        Raises:
            ValueError: a number in it is not finite.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False)
        # A lone surrogate, which an error may quote, becomes the escape that JSON has for it.
        return text.encode(errors="backslashreplace")

    @classmethod
    def from_json(cls, text: builtins.bytes) -> Self:
        """The record of a line.

        Raises:
            ValueError: it is not one: not JSON, a field is missing, unknown or of another type.
        """
        fields = parse_object(text)
        for name in _TYPES:
            if name not in fields:
                raise ValueError(f"it has no {name!r}")
        for name, value in fields.items():
            if name not in _TYPES:
                raise ValueError(f"it has {name!r}, which this version does not know")
            if not isinstance(value, _TYPES[name]) or isinstance(value, bool):
                raise ValueError(f"its {name!r} is not what it should be")
        return cls(**fields)


_TYPES: dict[str, Any] = {
    "line": int,
    "prompt": str | None,
    "image": str | None,
    "seed": int | None,
    "settings": dict,
    "key": str | None,
    "file": str | None,
    "digest": str | None,
    "bytes": int | None,
    "seconds": int | float | None,
    "error": str | None,
}


class Manifest:
    """The records in an OutputStore; any number of processes may have it open."""

    def __init__(self, store: OutputStore) -> None:
        self._log = store.record_log()

    def records(self) -> dict[int, Record]:
        """The last record of each line, by the line's number.

        Raises:
            UserError: what is there is not all records, or has been written by a newer version.
            OutputError: it can't be read.
        """
        return {record.line: record for record in map(_parsed, self._log.lines())}

    def append(self, record: Record) -> None:
        """Add a record; it is kept, whatever happens, when this returns.

        Raises:
            OutputError: it can't be written; then it is not there.
        """
        self._log.append(record.line, record.to_json())

    def close(self) -> None:
        """Bring all records into manifest.jsonl: in a bucket they may lie beside it until then.

        Raises:
            OutputError: that can't be written; no record is lost.
        """
        self._log.close()


def _parsed(line: tuple[str, bytes]) -> Record:
    place, text = line
    try:
        return Record.from_json(text)
    except ValueError as error:
        raise UserError(
            f"{place} is no record of a clip: {error}.",
            "Lines are expected as `cogvideox sample` of this version writes them.",
            "Choose another OUT, or remove the line: its clip is then made again.",
        ) from None
