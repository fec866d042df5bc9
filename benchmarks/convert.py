"""Conversion against what a user would run instead: time as a multiple of `cp`, peak memory.

    make bench
    python benchmarks/convert.py --variants cogvideox-2b cogvideox-5b --rounds 3

A full-size SAT checkpoint of random values is generated once. Each command is a process of its own
and converts transformer and VAE; in each round all commands run once, in turn. Memory is the peak
of the process's anonymous memory (RssAnon), sampled: mapped file pages are the kernel's to drop.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

# This file's own name would stand before the package's.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch  # noqa: E402

from benchmarks.measured_process import Measured, measure  # noqa: E402
from conversion import transformer_rules, vae_rules  # noqa: E402
from conversion.component_configs import transformer_config, vae_config  # noqa: E402
from conversion.pt_writer import write_pt  # noqa: E402
from conversion.rules import Piece, PlannedTensor, Shape, source_shapes  # noqa: E402
from weights.variants import VARIANTS, Variant  # noqa: E402

# Building 5B in float32 and its state dict beside it is more than these machines have.
_BASELINE_MEMORY_FACTOR = 3


class _RandomSource:
    """Rows of one random block, over and over: what the values are does not matter."""

    def __init__(self, shapes: dict[str, Shape], dtype: torch.dtype) -> None:
        self._shapes = shapes
        self._dtype = dtype
        self._block = torch.randn(16 << 20, generator=torch.Generator().manual_seed(0)).to(dtype)

    def dtype(self, name: str) -> torch.dtype:
        return self._dtype

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        shape = (stop - start, *self._shapes[name][1:])
        count = torch.Size(shape).numel()
        return self._block.repeat(-(-count // len(self._block)))[:count].view(shape)


def _write_file(path: Path, outer: str, prefix: str, shapes: dict[str, Shape], dtype: str) -> None:
    path.parent.mkdir(parents=True)
    source = _RandomSource(shapes, getattr(torch, dtype))
    plan = [PlannedTensor(n, s, (Piece(n, 0, s[0]),)) for n, s in shapes.items()]
    with path.open("wb") as file:
        write_pt(file, outer, plan, source, prefix=prefix)


def _write_checkpoint(variant: Variant, folder: Path) -> None:
    table = transformer_rules.transformer_rules(
        transformer_rules.architecture_of(variant), learned_positions=variant.learned_positions
    )
    path = folder / "transformer" / "1" / "mp_rank_00_model_states.pt"
    _write_file(path, "module", transformer_rules.PREFIX, source_shapes(table), variant.dtype)
    (folder / "transformer" / "latest").write_text("1")
    vae = vae_rules.vae_rules(vae_rules.architecture_of(variant))
    _write_file(folder / "vae" / "3d-vae.pt", "state_dict", "", source_shapes(vae), variant.dtype)


def baseline(source: Path, target: Path, name: str) -> None:
    """Plain diffusers: rename in memory, build the models, load the state dicts, save."""
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

    from conversion.rules import plan_forward

    variant = VARIANTS[name]
    vae_architecture = vae_rules.architecture_of(variant)
    parts = (
        (
            "transformer",
            source / "transformer" / "1" / "mp_rank_00_model_states.pt",
            transformer_rules.PREFIX,
            transformer_rules.transformer_rules(
                transformer_rules.architecture_of(variant),
                learned_positions=variant.learned_positions,
            ),
            lambda: CogVideoXTransformer3DModel.from_config(transformer_config(variant)),
        ),
        (
            "vae",
            source / "vae" / "3d-vae.pt",
            "",
            vae_rules.vae_rules(vae_architecture),
            lambda: AutoencoderKLCogVideoX.from_config(vae_config(variant, vae_architecture)),
        ),
    )
    for part, path, prefix, table, build in parts:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = {k.removeprefix(prefix): t for k, t in next(iter(content.values())).items()}
        plan = plan_forward(table, {k: tuple(t.shape) for k, t in state.items()}, part)
        renamed = {
            t.name: torch.cat([state[p.name][p.start : p.stop] for p in t.pieces])
            for t in plan.tensors
        }
        model = build()
        model.load_state_dict(renamed)
        model.to(getattr(torch, variant.dtype)).save_pretrained(target / part)


def unhashed(source: Path, target: Path) -> None:
    """Our conversion with its digests switched off: what the copying alone costs."""
    from conversion import background_digest, convert
    from conversion.plan import plan_conversion

    background_digest.BackgroundDigest.update = lambda *_: None  # type: ignore[method-assign]
    convert.file_digest = lambda _: "not hashed"  # type: ignore[assignment]
    convert.convert(plan_conversion(source), target)


def _commands(name: str, source: Path, target: Path) -> dict[str, list[str]]:
    convert = [sys.executable, "-m", "cli.main", "convert", str(source), str(target)]
    # A dtype of the same width, so that as many bytes are written.
    other = "bf16" if VARIANTS[name].dtype == "float16" else "fp16"
    commands = {
        "cp": ["cp", "-r", str(source), str(target)],
        "cogvideox convert": convert,
        "cogvideox convert, not hashing": [
            *(sys.executable, __file__, "--unhashed", str(source), str(target))
        ],
        f"cogvideox convert --dtype {other}": [*convert, "--dtype", other, "--allow-overflow"],
    }
    size = sum(path.stat().st_size for path in source.rglob("*.pt"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if _BASELINE_MEMORY_FACTOR * size < memory:
        commands["plain diffusers"] = [
            *(sys.executable, __file__, "--baseline", str(source), str(target), name)
        ]
    return commands


def _run_rounds(name: str, source: Path, work: Path, rounds: int) -> dict[str, Measured]:
    measured: dict[str, Measured] = {}
    for number in range(rounds):
        for label, command in _commands(name, source, work / "out").items():
            print(f"{name}: round {number + 1}, {label}", file=sys.stderr)
            measure(command, measured.setdefault(label, Measured()))
            shutil.rmtree(work / "out")
    return measured


def _table(name: str, size: int, measured: dict[str, Measured]) -> str:
    unit = statistics.median(measured["cp"].seconds)
    synced_unit = statistics.median(measured["cp"].synced)
    lines = [
        f"{name}, {size / 1e9:.2f} GB, medians of {len(measured['cp'].seconds)}:",
        "",
        "| command | s | times cp | s until on disk | times cp | peak anonymous memory |",
        "|---|---|---|---|---|---|",
    ]
    for label, runs in measured.items():
        seconds = statistics.median(runs.seconds)
        synced = statistics.median(runs.synced)
        lines.append(
            f"| `{label}` | {seconds:.1f} | {seconds / unit:.2f} | {synced:.1f} "
            f"| {synced / synced_unit:.2f} | {statistics.median(runs.memory) / 1e6:,.0f} MB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", default=["cogvideox-2b"], choices=VARIANTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where the files go; default: checkpoints/")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--baseline", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--unhashed", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.unhashed:
        unhashed(*options.unhashed)
        return
    if options.baseline:
        source, target, name = options.baseline
        baseline(Path(source), Path(target), name)
        return
    root = options.work or Path(__file__).resolve().parents[1] / "checkpoints"
    root.mkdir(exist_ok=True)
    for name in options.variants:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=root) as folder:
            source = Path(folder) / "source"
            _write_checkpoint(VARIANTS[name], source)
            size = sum(path.stat().st_size for path in source.rglob("*.pt"))
            measured = _run_rounds(name, source, Path(folder), options.rounds)
        if options.json:
            print(json.dumps({k: vars(v) for k, v in measured.items()}))
        else:
            print(_table(name, size, measured), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
