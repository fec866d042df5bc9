"""What was measured, as JSON for programs and as Markdown tables for readers."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import Figure, Outcome
from weights.atomic import replacing
from weights.byte_sizes import shown_size


@dataclass(slots=True, kw_only=True)
class VariantReport:
    """One variant's outcomes so far. `request` is what was asked of it, in words."""

    variant: str
    dtype: str
    request: str
    outcomes: list[Outcome] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Report:
    """A whole run. `machine` holds the device, the versions and whatever else figures depend on."""

    date: str
    machine: dict[str, str]
    variants: list[VariantReport] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The same as plain values, with what follows from them written out."""
        return {
            "date": self.date,
            "machine": self.machine,
            "variants": [
                {
                    "variant": v.variant,
                    "dtype": v.dtype,
                    "request": v.request,
                    "cases": [_case(outcome) for outcome in v.outcomes],
                }
                for v in self.variants
            ],
        }

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write bench.json and bench.md into `folder` and return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "bench.json", folder / "bench.md"
        texts = json.dumps(self.as_json(), indent=2) + "\n", markdown(self)
        for path, text in zip(paths, texts, strict=True):
            with replacing(path) as file:
                file.write(text.encode())
        return paths


def _case(outcome: Outcome) -> dict[str, Any]:
    figures = [
        asdict(figure) | {"reaches_target": figure.reaches_target, "off_by": figure.off_by}
        for figure in outcome.figures
    ]
    return asdict(outcome) | {"figures": figures}


def markdown(report: Report) -> str:
    """A heading and a table a variant, with what was left out and why below it."""
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    sections = [f"{report.date}. {machine}. Random weights: they change no latency and no memory."]
    sections += [_section(variant) for variant in report.variants]
    return "\n\n".join(sections) + "\n"


def _section(v: VariantReport) -> str:
    rows = [
        f"| {outcome.case} | {_row(figure)} |"
        for outcome in v.outcomes
        for figure in outcome.figures
    ]
    missing = [
        f"- {outcome.case}: {outcome.status}, {outcome.reason}"
        for outcome in v.outcomes
        if outcome.status != "done"
    ]
    lines = [f"### {v.variant}, {v.dtype}", "", f"{v.request}.", ""]
    if rows:
        lines += ["| case | figure | measured | held against |", "|---|---|---|---|", *rows]
    if missing:
        lines += ["", "Without a figure, or not all of them:", "", *missing]
    return "\n".join(lines)


def _row(figure: Figure) -> str:
    name = f"{figure.name} (computed)" if figure.origin == "computed" else figure.name
    value = "none" if figure.value is None else shown(figure.value, figure.unit)
    return f"{name} | {value} | {_held_against(figure)}"


def _held_against(figure: Figure) -> str:
    parts = []
    if figure.target is not None:
        verdict = "reached" if figure.reaches_target else "missed"
        parts.append(f"target ≤ {shown(figure.target, figure.unit)}: {verdict}")
    if figure.predicted is not None and figure.off_by is not None:
        parts.append(f"predicted {shown(figure.predicted, figure.unit)}: {figure.off_by:+.1%}")
    if figure.note:
        parts.append(figure.note)
    return "; ".join(parts)


def shown(value: float, unit: str) -> str:
    """A figure as people read it: three digits, bytes in the fitting unit."""
    if unit == "bytes":
        return shown_size(int(value))
    if unit == "yes/no":
        return "yes" if value else "no"
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}".rstrip()
