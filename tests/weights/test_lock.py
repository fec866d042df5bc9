"""A lock is read strictly: what passes is safe to install."""

import copy
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weights.errors import UserError
from weights.lock import (
    Lock,
    LockedFile,
    lock_fields,
    read_lock,
    resolve_url,
    set_digest,
    write_lock,
)

ONE, TWO = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
LOCK = Lock(
    name="nano",
    variant="nano",
    dtype="float32",
    url="nano.tar",
    size=10240,
    digest=ONE,
    files=(LockedFile("a/b.json", 3, TWO, 1024), LockedFile("é", 0, ONE, 3072, TWO)),
)
SPLIT = Lock(
    name="nano",
    variant="nano",
    dtype="float32",
    url="nano/",
    files=(LockedFile("a/b.json", 3, TWO), LockedFile("é", 0, ONE, header_digest=TWO)),
)
UNPINNED = Lock(name="x", variant=None, dtype=None, url="https://example.com/x.tar")


def refusal(path: Path, fields: object) -> str:
    path.write_text(json.dumps(fields))
    with pytest.raises(UserError) as error:
        read_lock(path)
    assert str(path) in error.value.given
    assert error.value.expected
    assert error.value.remedy
    return error.value.given


@pytest.mark.parametrize("lock", [LOCK, SPLIT, UNPINNED])
def test_what_is_written_is_read(tmp_path, lock):
    path = tmp_path / "x.lock.json"
    write_lock(lock, path)
    first = path.read_bytes()
    assert read_lock(path) == lock
    write_lock(read_lock(path), path)
    assert path.read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.lock.json"]


@pytest.mark.parametrize(
    ("lock", "pinned", "split", "size"),
    [(LOCK, True, False, 3), (SPLIT, True, True, 3), (UNPINNED, False, False, 0)],
)
def test_there_are_three_kinds_of_locks(lock, pinned, split, size):
    assert (lock.pinned, lock.split, lock.files_size) == (pinned, split, size)
    assert (lock.set_digest is not None) is pinned


def test_what_a_file_does_not_have_is_not_written():
    assert [set(file) for file in lock_fields(LOCK)["files"]] == [
        {"path", "size", "digest", "offset"},
        {"path", "size", "digest", "offset", "headerDigest"},
    ]
    assert [set(file) for file in lock_fields(SPLIT)["files"]] == [
        {"path", "size", "digest"},
        {"path", "size", "digest", "headerDigest"},
    ]


def test_set_digest_is_cogs():
    lines = f"{'1' * 64}  é\n{'2' * 64}  a/b.json"
    assert set_digest(LOCK.files) == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
    assert set_digest(reversed(LOCK.files)) == set_digest(LOCK.files)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("version", True),
        ("version", "1"),
        ("name", ""),
        ("name", "../x"),
        ("name", 1),
        ("variant", "mine"),
        ("variant", ["nano"]),
        ("dtype", "int8"),
        ("url", ""),
        ("url", 1),
        ("url", "/etc/passwd"),
        ("url", "ftp://example.com/x.tar"),
        ("url", "s3:///x.tar"),
        ("url", "gs://"),
        ("url", "http:///x.tar"),
        ("url", "http://[::1/x.tar"),
        ("url", "http://example.com:port/x.tar"),
        ("url", "file://example.com/x.tar"),
        ("url", "https://example.com/x\n.tar"),
        ("size", -1),
        ("size", 1.5),
        ("size", None),
        ("size", True),
        ("digest", "1" * 64),
        ("digest", f"sha256:{'G' * 64}"),
        ("digest", f"{ONE}\n"),
        ("digest", None),
        ("setDigest", ONE),
        ("setDigest", None),
        ("files", []),
        ("files", None),
        ("files", [1]),
        ("files", [{"path": "a", "size": 1}]),
    ],
)
def test_a_bad_field_is_named(tmp_path, field, value):
    assert field in refusal(tmp_path / "x.lock.json", lock_fields(LOCK) | {field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("path", 1),
        ("size", -1),
        ("size", "3"),
        ("digest", "sha256:1"),
        ("offset", -512),
        ("offset", "3072"),
        ("offset", 3072.0),
        ("offset", True),
        ("headerDigest", "sha256:1"),
        ("headerDigest", 1),
        ("header_digest", TWO),
        ("layer", "x"),
    ],
)
def test_a_bad_field_of_a_file_is_named(tmp_path, field, value):
    fields = lock_fields(LOCK)
    fields["files"][1][field] = value
    assert "files[1]" in refusal(tmp_path / "x.lock.json", fields)


@pytest.mark.parametrize(
    ("first", "second", "field"),
    [
        (1024, None, "files"),  # missing
        (None, 3072, "files"),
        (1024, 3000, "files"),  # not at a block
        (1, 3072, "files"),
        (0, 3072, "files"),  # no room for the header
        (1024, 1024, "files"),  # where the other is
        (1024, 1536, "files"),  # without a header after the other one's padding
        (3072, 3072, "files"),
        (1024, 10752, "size"),  # beyond the end
    ],
)
def test_each_file_has_its_place_in_the_tarball(tmp_path, first, second, field):
    fields = lock_fields(LOCK)
    for file, offset in zip(fields["files"], (first, second), strict=True):
        file["offset"] = offset
    assert field in refusal(tmp_path / "x.lock.json", fields)


@pytest.mark.parametrize(("offsets", "size"), [((512, 1536), 1536), ((4096, 512), 4099)])
def test_places_may_be_close_and_in_any_order(tmp_path, offsets, size):
    fields = lock_fields(LOCK) | {"size": size}
    for file, offset in zip(fields["files"], offsets, strict=True):
        file["offset"] = offset
    path = tmp_path / "x.lock.json"
    path.write_text(json.dumps(fields))
    assert tuple(file.offset for file in read_lock(path).files) == offsets
    assert "size" in refusal(path, fields | {"size": size - 1})


@given(data=st.data())
def test_accepted_places_never_overlap(tmp_path_factory, data):
    """Headers included: whoever reads ranges by the lock reads payloads and nothing else."""
    numbers = st.integers(0, 8)
    offsets = data.draw(st.lists(numbers.map((512).__mul__) | numbers, min_size=1, max_size=4))
    sizes = [data.draw(st.sampled_from([0, 1, 511, 512, 513, 1024])) for _ in offsets]
    files = tuple(
        LockedFile(f"{number}", size, ONE, offset)
        for number, (size, offset) in enumerate(zip(sizes, offsets, strict=True))
    )
    total = data.draw(st.sampled_from([0, 1024, 4096, 10240]))
    file = tmp_path_factory.getbasetemp() / "places.lock.json"
    write_lock(Lock(**{**_arguments(), "size": total, "files": files}), file)
    blocks = [
        range(offset // 512 - 1, -(-(offset + size) // 512))
        for offset, size in zip(offsets, sizes, strict=True)
    ]
    used = [block for span in blocks for block in span]
    whole = len(used) == len(set(used)) and min(used) >= 0
    fits = max(offset + size for offset, size in zip(offsets, sizes, strict=True)) <= total
    if whole and fits and not any(offset % 512 for offset in offsets):
        assert read_lock(file).files == files
    else:
        with pytest.raises(UserError, match=r"files|size"):
            read_lock(file)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"size": 10240}, "digest"),
        ({"url": "nano"}, "url"),
        ({"url": "https://example.com/nano"}, "url"),
        ({"url": "https://example.com/nano/?key=1"}, "url"),
        ({"digest": ONE}, "size"),
        ({"digest": ONE, "size": 10240}, "files"),
    ],
)
def test_a_split_lock_has_nothing_of_a_tarball(tmp_path, change, field):
    assert field in refusal(tmp_path / "x.lock.json", lock_fields(SPLIT) | change)


def test_a_split_lock_has_no_offsets(tmp_path):
    fields = lock_fields(SPLIT)
    fields["files"][1]["offset"] = 512
    assert "digest" in refusal(tmp_path / "x.lock.json", fields)


@pytest.mark.parametrize("url", [None, "https://example.com/nano/", "s3://bucket/", "file:///n/"])
def test_a_split_lock_may_be_anywhere_or_nowhere_yet(tmp_path, url):
    path = tmp_path / "x.lock.json"
    path.write_text(json.dumps(lock_fields(SPLIT) | {"url": url}))
    assert read_lock(path).url == url


def with_paths(*paths: str) -> dict:
    files = tuple(LockedFile(path, 1, ONE, 512 + 1024 * n) for n, path in enumerate(paths))
    fields = lock_fields(Lock(**{**_arguments(), "files": files}))
    return copy.deepcopy(fields)


def _arguments() -> dict:
    return {"name": "n", "variant": None, "dtype": None, "url": None, "size": 9216, "digest": ONE}


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a/./b",
        "a//b",
        "a/",
        "a\\b",
        "a\nb",
        "a\0b",
        " a",
        "a/b ",
        "x" * 256,
        ".install.json",
    ],
)
def test_refuses_paths_that_are_not_inside(tmp_path, path):
    assert "files[0].path" in refusal(tmp_path / "x.lock.json", with_paths(path))


def test_refuses_paths_that_collide(tmp_path):
    assert "twice" in refusal(tmp_path / "x.lock.json", with_paths("a", "b", "a"))
    assert "as a folder" in refusal(tmp_path / "x.lock.json", with_paths("a/b", "a"))


@given(path=st.text(max_size=30) | st.from_regex(r"[a./\\ ]{0,8}", fullmatch=True))
def test_an_accepted_path_stays_inside(tmp_path_factory, path):
    file = tmp_path_factory.getbasetemp() / "paths.lock.json"
    try:
        text = json.dumps(with_paths(path))
    except UnicodeEncodeError:  # a lone surrogate has no digest
        return
    file.write_text(text)
    try:
        lock = read_lock(file)
    except UserError:
        return
    inside = Path("/target", lock.files[0].path)
    assert inside.is_relative_to("/target")
    assert inside != Path("/target")
    assert ".." not in inside.parts
    assert inside.as_posix() == f"/target/{path}"
    assert not any(ord(character) < 32 for character in path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        "{}",
        "[" * 100_000,
        '{"version": 1}',
        '{"version": 1, "version": 1}',
        f'{{"version": {"9" * 5000}}}',
    ],
)
def test_refuses_what_is_no_lock(tmp_path, text):
    path = tmp_path / "x.lock.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"x\.lock\.json"):
        read_lock(path)


def test_refuses_a_missing_lock_and_a_folder(tmp_path):
    for path in (tmp_path, tmp_path / "gone.lock.json"):
        with pytest.raises(UserError, match="no file"):
            read_lock(path)


def test_a_message_never_shows_a_url(tmp_path):
    fields = lock_fields(LOCK) | {"url": "ftp://user:SECRET@example.com/x.tar?sig=SECRET"}
    assert "SECRET" not in refusal(tmp_path / "x.lock.json", fields)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("x y.tar", "file://{folder}/x%20y.tar"),
        ("sub/x.tar", "file://{folder}/sub/x.tar"),
        ("a:b.tar", "file://{folder}/a%3Ab.tar"),
        ("https://example.com/x.tar?y", "https://example.com/x.tar?y"),
        ("file:///srv/x.tar", "file:///srv/x.tar"),
        ("s3://bucket/x.tar", "s3://bucket/x.tar"),
        ("gs://bucket/a/x.tar", "gs://bucket/a/x.tar"),
        ("az://container/x.tar", "az://container/x.tar"),
    ],
)
def test_a_relative_url_starts_at_the_lock(tmp_path, url, expected):
    path = tmp_path / "x.lock.json"
    path.write_text(json.dumps(lock_fields(LOCK) | {"url": url}))
    assert resolve_url(read_lock(path)) in (
        expected.format(folder=tmp_path),
        expected.format(folder=tmp_path).replace("%3A", ":"),
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("x y/", "file://{folder}/x%20y/"),
        ("./", "file://{folder}/"),
        ("https://example.com/x/", "https://example.com/x/"),
    ],
)
def test_the_url_of_a_split_lock_keeps_its_slash(tmp_path, url, expected):
    path = tmp_path / "x.lock.json"
    path.write_text(json.dumps(lock_fields(SPLIT) | {"url": url}))
    assert resolve_url(read_lock(path)) == expected.format(folder=tmp_path)


def test_a_lock_without_a_place_is_refused():
    for lock in (LOCK, Lock(**_arguments())):
        with pytest.raises(UserError, match="where its tarball is"):
            resolve_url(lock)


@pytest.mark.parametrize("name", ["cogvideox-5b", "cogvideox-5b-i2v"])
def test_the_published_locks_are_valid(name):
    lock = read_lock(Path(__file__).parents[2] / "weights" / "locks" / f"{name}.lock.json")
    assert (lock.name, lock.variant, lock.dtype, lock.pinned) == (name, name, "bfloat16", False)
    assert lock.url.startswith("https://weights.replicate.delivery/default/THUDM/CogVideo/")
