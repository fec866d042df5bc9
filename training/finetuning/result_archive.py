"""The tar of a training's result: what a predictor's input `lora` takes."""

from pathlib import Path

from weights.atomic import replacing
from weights.disk_space import check_space
from weights.packing.tarball import plan_tarball, tar_pieces


def pack_result(folder: Path, lora: Path, tar: Path) -> None:
    """Write `lora` with the model card and the validation clips of `folder` to `tar`.

    The same files give the same bytes. Checkpoints and caches that lie in the folder stay out: a
    predictor takes a tar with exactly one .safetensors file.

    Raises:
        OperationError: the disk of `tar` is too full.
        OSError: a file can't be read or written.
    """
    files = [lora, *folder.glob("README.md"), *folder.rglob("*.mp4")]
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
    plan = plan_tarball(sizes)
    check_space(tar.parent, plan.size)
    with replacing(tar) as packed:
        for _, piece in tar_pieces(folder, plan):
            packed.write(piece)
