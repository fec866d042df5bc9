"""The formats of prompt files, read into rows of fields that are not yet looked at."""

import codecs
import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sampling.request_columns import check_columns, check_required
from weights.errors import UserError
from weights.json_file import parse_object
from weights.variants import Task

Format = Literal["text", "jsonl", "csv", "parquet"]

# Millions of prompts. What is larger is another file by mistake.
_MAX_BYTES = 256 << 20
_FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
# They are text too, and every line of theirs would be sampled as a prompt.
_NOT_READ = (".json", ".tsv", ".yaml", ".yml")
# pandas keeps a table's index so.
_PANDAS_INDEX = "__index_level_"
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a line of a file says: fields by the names that the file has; blank ones are left out.

    `number` is that of a line in JSONL, from 1; of a row in CSV and Parquet, from 1, where a CSV's
    header does not count. With a `problem` there are no fields.
    """

    number: int
    fields: dict[str, Any]
    problem: UserError | None = None


def file_format(source: Path) -> Format:
    """The format that the suffix of `source` stands for; without a known one it is text.

    Raises:
        UserError: it is one that is not read.
    """
    suffix = source.suffix.lower()
    if suffix in _NOT_READ:
        raise UserError(
            f"{source} ends in {suffix}.",
            "Prompts are read from text with one a line, .jsonl, .csv and .parquet.",
            "Save them so.",
        )
    return _FORMATS.get(suffix, "text")


def read_data(source: Path) -> bytes:
    """All of a prompt file.

    Raises:
        UserError: it can't be read, or is too large.
    """
    try:
        with source.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UserError(
            f"{source} can't be read ({error.strerror}).",
            "A file of prompts is expected.",
            "Correct the path.",
        ) from None
    if len(data) > _MAX_BYTES:
        raise UserError(
            f"{source} has more than {_MAX_BYTES} bytes.",
            "A file of prompts is expected.",
            "Check that it is the right one, and split it if so.",
        )
    return data


def decoded(data: bytes, source: Path) -> str:
    """The text of UTF-8, without the byte order mark that some programs begin it with.

    Raises:
        UserError: it is not UTF-8; names the line.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{source}, line {line}: it is not UTF-8.", "UTF-8 is expected.", "Save the file so."
        ) from None


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, without spaces around them, and their numbers from 1 on."""
    # Not str.splitlines, which also breaks lines where prompts may have such a character.
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if line.strip():
            yield number, line.strip()


def jsonl_rows(text: str, source: Path, task: Task) -> Iterator[Row]:
    """A row for each line of JSON.

    Raises:
        UserError: a line has a field that is not known.
    """
    for number, line in numbered_lines(text):
        try:
            fields = parse_object(line.encode())
        except ValueError as error:
            problem = UserError(
                f"It is not a JSON object ({error}).",
                'A line like {"prompt": "…", "seed": 1} is expected.',
                "Correct it.",
            )
            yield Row(number=number, fields={}, problem=problem)
            continue
        try:
            check_columns(fields, task)
        except UserError as error:
            raise located(error, f"{source}, line {number}") from None
        yield Row(number=number, fields={k: v for k, v in fields.items() if v is not None})


def csv_rows(text: str, source: Path, task: Task) -> Iterator[Row]:
    """A row for each row after the first, which names the columns; all cells are texts.

    Raises:
        UserError: a column is not known or missing, or quotes are not as in CSV.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 0
    try:
        names = [name.strip() for name in next(reader, [])]
        _check_header(names, source, task)
        for cells in reader:
            number += 1
            if any(cell.strip() for cell in cells):
                yield _csv_row(number, names, cells)
    except csv.Error as error:
        raise UserError(
            f"{source}, row {number + 1}: it is not CSV ({error}).",
            "Cells with commas, quotes or line breaks must be in quotes, and quotes in them twice.",
            "Correct that row.",
        ) from None


def _csv_row(number: int, names: list[str], cells: list[str]) -> Row:
    if len(cells) != len(names):
        problem = UserError(
            f"It has {len(cells)} cells.",
            f"{len(names)} are expected, as in the first row.",
            "Put what has a comma in it in quotes.",
        )
        return Row(number=number, fields={}, problem=problem)
    filled = {name: cell for name, cell in zip(names, cells, strict=True) if cell.strip()}
    return Row(number=number, fields=filled)


def parquet_rows(data: bytes, source: Path, task: Task) -> Iterator[Row]:
    """A row for each row of a Parquet file.

    Raises:
        UserError: pyarrow is not there, it is not Parquet, or a column is not known or missing.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f"{source} is Parquet, and pyarrow is not installed.",
            "The extra `sample` has it.",
            "Run `pip install -r requirements-sample.txt`, or save the prompts as CSV.",
        ) from None
    number = 0
    try:
        table = parquet.ParquetFile(pyarrow.BufferReader(data))
        names = [name for name in table.schema_arrow.names if not name.startswith(_PANDAS_INDEX)]
        _check_header(names, source, task)
        for batch in table.iter_batches(_ROWS_AT_ONCE, columns=names):
            for fields in batch.to_pylist():
                number += 1
                yield Row(number=number, fields={k: v for k, v in fields.items() if v is not None})
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError):
        # pyarrow's own words tell where in its C++ it happened.
        raise UserError(
            f"{source}, after row {number}: it can't be read as Parquet.",
            "A Parquet file with texts in UTF-8 is expected.",
            "Write it again.",
        ) from None


def _check_header(names: list[str], source: Path, task: Task) -> None:
    try:
        check_columns(names, task)
        check_required(names, task)
    except UserError as error:
        raise located(error, f"{source}, columns") from None


def located(error: UserError, place: str) -> UserError:
    """`error` with the place that it is about before it."""
    return type(error)(f"{place}: {error.given}", error.expected, error.remedy)
