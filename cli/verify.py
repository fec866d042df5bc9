"""Compare a converted folder with its source, tensor by tensor, and run both models once."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cli.progress import byte_progress

EXAMPLES = """examples:
  cogvideox verify checkpoints/cogvideox-5b --against CogVideoX-5b-sat
  cogvideox verify checkpoints/mine --against ckpts/mine --config model.yaml --vae 3d-vae.pt --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DST", help="the converted folder")
    parser.add_argument(
        "--against", type=Path, required=True, metavar="SRC", help="what it was converted from"
    )
    parser.add_argument("--config", type=Path, metavar="YAML", help="as given to convert")
    parser.add_argument("--vae", type=Path, metavar="FILE", help="as given to convert")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [f"variant      {report['variant']}"]
    for model in report["models"]:
        lines.append(
            f"{model['model']:12} {model['source_tensors']} source tensors consumed, "
            f"{model['target_tensors']} target tensors produced, {model['values'] / 1e6:,.1f} M "
            f"values: {model['identical']} tensors bit-exact, {model['rounded']} rounded by the "
            f"cast, {len(model['different'])} different"
        )
        lines += [
            f"{'':12} {fault}: {_listed(model[fault])}"
            for fault in ("different", "missing", "unknown")
            if model[fault]
        ]
    lines.append(f"left out     {report['left_out']} entries (see conversion.json)")
    altered = report["altered_files"]
    lines.append(
        f"files        {report['files']} as recorded"
        + (f", altered or missing: {_listed(altered)}" if altered else "")
    )
    lines += [f"forward      {trial['model']}: {trial['note']}" for trial in report["forward"]]
    lines.append("verified" if report["ok"] else "NOT verified")
    return lines


def run(options: argparse.Namespace) -> int:
    from conversion.trial_forward import try_forward
    from conversion.verification import plan_verification, verify

    plan = plan_verification(
        options.folder, options.against, config=options.config, vae=options.vae
    )
    with byte_progress("Comparing", plan.total_bytes) as advance:
        report = verify(plan, options.folder, advance=advance)
    trials = try_forward(options.folder) if report.ok else ()
    ok = report.ok and all(trial.finite is not False for trial in trials)
    document = {"ok": ok, **asdict(report), "forward": [asdict(trial) for trial in trials]}
    print(json.dumps(document, indent=2) if options.json else "\n".join(_lines(document)))
    return 0 if ok else 1
