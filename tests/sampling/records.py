"""Records of clips to write into manifests."""

from dataclasses import replace
from pathlib import Path

from sampling.manifest import Record
from sampling.output_store import OutputStore

DONE = Record(
    line=1,
    prompt="ein Kätzchen\nwakes up \u2028",
    image=None,
    seed=43,
    settings={"num_frames": 9, "guidance_scale": 6.0},
    key="ab" * 32,
    file="000001.mp4",
    digest="sha256:" + "cd" * 32,
    bytes=1234,
    seconds=1.5,
    error=None,
)
FAILED = replace(DONE, file=None, digest=None, bytes=None, error="It ran out of memory.")
UNREADABLE = replace(FAILED, prompt=None, seed=None, settings={}, key=None, seconds=None)


def of_line(line: int, **changes) -> Record:
    return replace(DONE, line=line, file=f"{line:06}.mp4", **changes)


def manifest_file(store: OutputStore) -> Path:
    return Path(store.url) / "manifest.jsonl"


def last_of_each(written) -> dict[int, Record]:
    return {record.line: record for record in written}
