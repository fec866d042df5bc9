"""Weights at rest against what a user would run instead: pack, fetch and the check at boot.

    python benchmarks/weights.py              # needs nginx (apt-get install nginx-light) and curl
    python benchmarks/weights.py --rounds 5 --size-gb 8 --json

A weights folder of the given size is generated once, of random bytes in six shards. Each command is
a process of its own; in each round all commands run once, in turn. Fetches come over loopback from
nginx, once as fast as it goes and once with 200 MB/s a connection. Memory is the peak of the
process's anonymous memory (RssAnon), sampled.
"""

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# This file's own name would stand before the package's.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.measured_process import Measured, measure  # noqa: E402
from weights.lock import read_lock, write_lock  # noqa: E402
from weights.packing.tarball import pack  # noqa: E402

_SHARDS = 6
_CONNECTION_LIMIT = "200m"
_PORTS = {"": 8571, f", {_CONNECTION_LIMIT[:-1]} MB/s a connection": 8572}
_NGINX = """
worker_processes 2; daemon off; pid {work}/nginx.pid; error_log {work}/error.log;
user root;
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; tcp_nopush on;
  client_body_temp_path {work}/b; proxy_temp_path {work}/p; fastcgi_temp_path {work}/f;
  uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
  server {{ listen 127.0.0.1:{fast}; root {root}; }}
  server {{ listen 127.0.0.1:{slow}; root {root}; limit_rate {limit}; }}
}}
"""
# Tensors, files and bytes of the full cogvideox-5b in bfloat16: what a boot check looks at.
_FULL_SIZE = {
    "transformer": (1316, 3, 11.1e9),
    "text_encoder": (219, 2, 9.5e9),
    "vae": (436, 1, 4e8),
}


def _shard(path: Path, tensors: int, size: int) -> None:
    """A safetensors file with a header of `tensors` tensors and `size` bytes of holes."""
    each = size // tensors // 2 * 2
    header = json.dumps(
        {
            f"transformer_blocks.{number}.attn1.to_q.weight": {
                "dtype": "BF16",
                "shape": [each // 2],
                "data_offsets": [number * each, (number + 1) * each],
            }
            for number in range(tensors)
        }
    ).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + tensors * each)


def _write_folder(folder: Path, parts: dict[str, tuple[int, int, float]]) -> None:
    index = {"_class_name": "CogVideoXPipeline"}
    index |= {part: ["diffusers", "AutoencoderKLCogVideoX"] for part in parts}
    for part, (tensors, files, size) in parts.items():
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}")
        for number in range(files):
            _shard(
                folder / part / f"model-{number}.safetensors", tensors // files, int(size) // files
            )
    (folder / "model_index.json").write_text(json.dumps(index))


def _fill(folder: Path) -> None:
    block = os.urandom(16 << 20)
    for path in folder.rglob("*.safetensors"):
        with path.open("r+b") as file:
            position = 8 + int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            while position < size:
                file.seek(position)
                position += file.write(block[: size - position])


@contextmanager
def _nginx(root: Path, work: Path) -> Iterator[None]:
    fast, slow = _PORTS.values()
    config = work / "nginx.conf"
    config.write_text(
        _NGINX.format(work=work, root=root, fast=fast, slow=slow, limit=_CONNECTION_LIMIT)
    )
    process = subprocess.Popen(["nginx", "-c", str(config)])  # noqa: S607
    try:
        deadline = time.monotonic() + 10
        while not (work / "nginx.pid").exists():
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit("nginx did not start")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def unhashed_pack(folder: Path, tarball: Path) -> None:
    """Our pack with its digests switched off: what the copying alone costs."""
    from weights.folder import list_files
    from weights.packing.tarball import plan_tarball, tar_pieces

    sizes = {path: (folder / path).stat().st_size for path in list_files(folder)}
    with tarball.open("wb") as file:
        for _, data in tar_pieces(folder, plan_tarball(sizes)):
            file.write(data)


def unhashed_fetch(lock: Path, destination: Path) -> None:
    """Our install with its digests switched off: what the transfer alone costs."""
    from weights import install
    from weights.fetching import landing

    class NoDigest:
        def update(self, data: bytes) -> None:
            """Not hashed."""

    landing.hashlib = type("hashlib", (), {"sha256": NoDigest})
    landing.LandingFile.digest = property(
        lambda file: file.locked.digest if file._next == file._count else None
    )
    install.install(read_lock(lock), destination)


def _fetch_commands(work: Path, label: str, port: int) -> dict[str, list[str]]:
    lock = read_lock(work / "w.lock.json")
    here = work / f"w-{port}.lock.json"
    url = f"http://127.0.0.1:{port}/w.tar"
    write_lock(dataclasses.replace(lock, url=url), here)
    sums = work / "sha256sums"
    sums.write_text("".join(f"{f.digest[7:]}  {f.path}\n" for f in lock.files))
    target = str(work / "out")
    fetch = [sys.executable, "-m", "cli.main", "fetch", str(here), target, "--engine"]
    plain = f"mkdir {target} && curl -s {url} | tar x -C {target}"
    commands = {
        f"curl | tar x{label}": ["bash", "-c", plain],
        f"cogvideox fetch{label}": [*fetch, "builtin"],
    }
    if not label:
        check = f"{plain} && cd {target} && sha256sum --quiet -c {sums}"
        commands["curl | tar x, then sha256sum -c"] = ["bash", "-c", check]
        unhashed = [sys.executable, __file__, "--unhashed-fetch", str(here), target]
        commands["cogvideox fetch, not hashing"] = unhashed
    if shutil.which("pget"):
        commands[f"cogvideox fetch --engine pget{label}"] = [*fetch, "pget"]
    return commands


def _pack_commands(work: Path) -> dict[str, list[str]]:
    folder, tarball = str(work / "folder"), str(work / "out.tar")
    return {
        "cp -r": ["cp", "-r", folder, str(work / "out")],
        "tar c": ["tar", "cf", tarball, "-C", folder, "."],
        "cogvideox pack": [sys.executable, "-m", "cli.main", "pack", folder, tarball],
        "cogvideox pack, not hashing": [
            *(sys.executable, __file__, "--unhashed-pack", folder, tarball)
        ],
        "cogvideox pack --split": [
            *(sys.executable, "-m", "cli.main", "pack", folder, str(work / "out"), "--split")
        ],
    }


def _clean(work: Path) -> None:
    shutil.rmtree(work / "out", ignore_errors=True)
    for path in work.glob("out*"):
        path.unlink()


def _run_rounds(commands: dict[str, list[str]], work: Path, rounds: int) -> dict[str, Measured]:
    measured: dict[str, Measured] = {}
    for number in range(rounds):
        for label, command in commands.items():
            print(f"round {number + 1}: {label}", file=sys.stderr)
            measure(command, measured.setdefault(label, Measured()))
            _clean(work)
    return measured


def _boot_check(work: Path) -> float:
    """Milliseconds of the check at every start, for a full-size 5B; the files are sparse."""
    from weights.install_check import check_install
    from weights.lock import Lock, LockedFile
    from weights.paths import MARKER
    from weights.safetensors_header import header_digest

    folder = work / "full"
    _write_folder(folder, _FULL_SIZE)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files, offset = [], 0
    for path in paths:
        offset += 512
        safetensors = path.suffix == ".safetensors"
        header = header_digest(path) if safetensors else None
        name, size = path.relative_to(folder).as_posix(), path.stat().st_size
        files.append(LockedFile(name, size, f"sha256:{'0' * 64}", offset, header))
        offset += -(-size // 512) * 512
    lock = Lock(
        name="full",
        variant="cogvideox-5b",
        dtype="bfloat16",
        url="full.tar",
        size=offset,
        digest=f"sha256:{'0' * 64}",
        files=tuple(files),
    )
    write_lock(lock, folder / MARKER)
    times = []
    for _ in range(21):
        started = time.perf_counter()
        check_install(folder)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def _table(title: str, unit_label: str, measured: dict[str, Measured]) -> str:
    unit = statistics.median(measured[unit_label].seconds)
    synced_unit = statistics.median(measured[unit_label].synced)
    lines = [
        title,
        "",
        "| command | s | ratio | s until on disk | ratio | peak anonymous memory |",
        "|---|---|---|---|---|---|",
    ]
    for label, runs in measured.items():
        seconds, synced = statistics.median(runs.seconds), statistics.median(runs.synced)
        lines.append(
            f"| `{label}` | {seconds:.1f} | {seconds / unit:.2f} | {synced:.1f} "
            f"| {synced / synced_unit:.2f} | {statistics.median(runs.memory) / 1e6:,.0f} MB |"
        )
    return "\n".join(lines)


def _run(options: argparse.Namespace, work: Path) -> None:
    folder = work / "folder"
    parts = {"transformer": (400, _SHARDS, options.size_gb * 1e9)}
    _write_folder(folder, parts)
    _fill(folder)
    results = {"pack": _run_rounds(_pack_commands(work), work, options.rounds)}
    write_lock(pack(folder, work / "w.tar"), work / "w.lock.json")
    shutil.rmtree(folder)
    with _nginx(work, work):
        for label, port in _PORTS.items():
            commands = _fetch_commands(work, label, port)
            results[f"fetch{label}"] = _run_rounds(commands, work, options.rounds)
    (work / "w.tar").unlink()
    boot = _boot_check(work)
    if options.json:
        documents = {
            title: {label: vars(runs) for label, runs in measured.items()}
            for title, measured in results.items()
        }
        print(json.dumps(documents | {"boot_check_ms": boot}))
        return
    for title, measured in results.items():
        heading = f"{title}, {options.size_gb} GB, medians of {options.rounds}:"
        print(_table(heading, next(iter(measured)), measured), end="\n\n")
    print(f"check at boot, full-size cogvideox-5b: {boot:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size-gb", type=float, default=4.8)
    parser.add_argument("--work", type=Path, help="where the files go; default: checkpoints/")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--unhashed-pack", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--unhashed-fetch", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.unhashed_pack:
        unhashed_pack(*options.unhashed_pack)
        return
    if options.unhashed_fetch:
        unhashed_fetch(*options.unhashed_fetch)
        return
    root = options.work or Path(__file__).resolve().parents[1] / "checkpoints"
    root.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=root) as work:
        _run(options, Path(work))


if __name__ == "__main__":
    main()
