"""Weights folders with files of any name and size, for the tests of what holds for all of them."""

from pathlib import Path, PurePosixPath

from hypothesis import strategies as st

from weights.paths import path_problem

# The smallest folder that passes as one: a pipeline of a scheduler.
PIPELINE = {
    "model_index.json": b'{"_class_name": "P", "s": ["d", "XScheduler"]}',
    "s/scheduler_config.json": b"{}",
}

_LETTERS = "aZ0é漢🙂 .-_~'\"%&$"
# In bytes, a name may have 255 of them; from 100 on, or beyond ASCII, a path needs PAX records.
_PARTS = (
    st.text(_LETTERS, min_size=1, max_size=6)
    | st.sampled_from(["s", "S", "é", "e\N{COMBINING ACUTE ACCENT}", "CON", "-rf", "@LongLink"])
    | st.integers(90, 255).map("x".__mul__)
)
_PATHS = st.lists(_PARTS, min_size=1, max_size=3).map("/".join)
_SIZES = st.sampled_from([0, 1, 511, 512, 513, 1023, 1024, 1025, 10240]) | st.integers(0, 3000)


def _fits(path: str, paths: set[str]) -> bool:
    """Whether a folder may have `path` beside `paths`: no file is also a folder."""
    parents = {str(parent) for parent in PurePosixPath(path).parents}
    below = any(PurePosixPath(other).is_relative_to(path) for other in paths)
    return not path_problem(path) and not below and not parents & paths


@st.composite
def folders(draw: st.DrawFn) -> dict[str, bytes]:
    """Contents by path."""
    files = dict(PIPELINE)
    for path in draw(st.lists(_PATHS, max_size=6)):
        if _fits(path, set(files)):
            pattern = draw(st.binary(min_size=1, max_size=4))
            files[path] = (pattern * 10240)[: draw(_SIZES)]
    return files


def write_folder(folder: Path, files: dict[str, bytes], order: list[str] | None = None) -> Path:
    for path in order or files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(files[path])
    return folder
