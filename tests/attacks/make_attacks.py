"""Generates the corpus of attacks: python make_attacks.py FOLDER CANARY

FOLDER is filled with files that no checkpoint reader should open. CANARY is a folder in which those
that run code leave a file when they succeed. The files are small on disk: what is huge is a hole.
"""

import os
import random
import sys
from pathlib import Path

import pickle_attacks
import safetensors_attacks
import zip_attacks
from forged_zip import write


def _other_files(folder: Path) -> None:
    (folder / "other-text.pt").write_text("these are no weights\n" * 100)
    (folder / "other-text.safetensors").write_text("these are no weights\n" * 100)
    (folder / "other-html.pt").write_text("<!DOCTYPE html><html>404: Not Found</html>")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    (folder / "other-git-lfs-pointer.pt").write_text(pointer)
    (folder / "other-empty.pt").touch()
    (folder / "other-empty.safetensors").touch()
    (folder / "other-one-byte.pt").write_bytes(b"P")
    (folder / "other-random.pt").write_bytes(random.Random(0).randbytes(100_000))
    (folder / "other-zeros.pt").touch()
    os.truncate(folder / "other-zeros.pt", 5_000_000_000)
    (folder / "other-folder.pt").mkdir()
    os.mkfifo(folder / "other-fifo.pt")
    os.mkfifo(folder / "other-fifo.safetensors")
    (folder / "other-device.pt").symlink_to("/dev/zero")
    (folder / "other-loop.pt").symlink_to("other-loop.pt")
    (folder / "other-dangling.pt").symlink_to("nowhere.pt")


def make(folder: Path, canary: Path) -> None:
    """Write every attack into `folder`, which must not exist."""
    folder.mkdir(parents=True)
    groups = (pickle_attacks.attacks(canary), zip_attacks.attacks(), safetensors_attacks.attacks())
    for group in groups:
        for name, chunks in group:
            path = folder / name
            if path.exists():
                raise ValueError(f"two attacks are called {name}")
            write(path, chunks)
    _other_files(folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
