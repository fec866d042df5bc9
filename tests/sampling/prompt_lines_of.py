"""Lines as a prompt file would give them, for tests of what comes after."""

from pathlib import Path

from sampling.prompt_lines import PromptLine
from weights.errors import UserError


def line(number: int = 1, *, image: Path | None = None, **inputs) -> PromptLine:
    """A good line; its prompt differs from those of other numbers."""
    fields = {"prompt": f"a red circle, take {number}", **inputs}
    return PromptLine(
        number=number, place=f"p.csv, row {number}", inputs=fields, image=image, problem=None
    )


def bad(number: int = 1) -> PromptLine:
    """A line that its format already refused."""
    return PromptLine(
        number=number,
        place=f"p.csv, row {number}",
        inputs={},
        image=None,
        problem=UserError(f"p.csv, row {number}: It is bad.", "Good is expected.", "Mend it."),
    )
