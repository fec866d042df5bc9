"""`cogvideox cache`: what it lists, removes and refuses."""

import json
import os
from pathlib import Path

import pytest

from cli.main import main
from predictors.weights_source import INSTALLED
from tests.weights.caching.cached import holding, lora, names, put_file


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    root = tmp_path / "cache"
    monkeypatch.setenv("COGVIDEOX_CACHE", str(root))
    monkeypatch.delenv("COGVIDEOX_CACHE_LIMIT", raising=False)
    return root


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main(["cache", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_ls_of_no_cache_is_empty_and_makes_none(capsys, root):
    assert run(capsys, "ls") == (0, f"0 bytes in {root}, no limit\n", "")
    assert not root.exists()


def test_ls_shows_a_line_for_each_and_the_total(capsys, root, monkeypatch):
    monkeypatch.setenv("COGVIDEOX_CACHE_LIMIT", "1GB")
    put_file(root, "a", 1500, used=0)
    put_file(root, "b", 2_000_000, used=0)
    (root / "photos").mkdir()
    with holding(root / lora("b")):
        code, out, err = run(capsys, "ls")
    assert (code, err) == (0, "")
    first, second, third, total = out.splitlines()
    assert first.split()[:3] == ["file", "1.5", "kB"]
    assert first.endswith(lora("a"))
    assert "1970-01-01" in first or "1969-12-31" in first
    assert "held" not in first
    assert second.endswith(f"held  {lora('b')}")
    assert third.split() == ["not", "ours", "photos"]
    assert total == f"2.0 MB in {root}, limit 1.0 GB"


def test_ls_as_json_is_one_document(capsys, root, monkeypatch):
    monkeypatch.setenv("COGVIDEOX_CACHE_LIMIT", "100")
    put_file(root, "a", 15, used=1000)
    (root / "photos").mkdir()
    code, out, err = run(capsys, "ls", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "cache": str(root),
        "limit": 100,
        "size": 15,
        "entries": [
            {
                "name": lora("a"),
                "kind": "file",
                "size": 15,
                "lastUsed": "1970-01-01T00:16:40+00:00",
                "held": False,
            },
            {"name": "photos", "kind": "not ours", "size": 0, "lastUsed": None, "held": False},
        ],
    }


def test_rm_removes_by_name(capsys, root):
    for letter in "abc":
        put_file(root, letter, 15, used=1)
    code, out, _ = run(capsys, "rm", lora("a"), lora("b"))
    assert code == 0
    assert out.splitlines() == [
        f"Removed {lora('a')} (file, 15 bytes)",
        f"Removed {lora('b')} (file, 15 bytes)",
        f"15 bytes in {root}, no limit",
    ]
    code, out, _ = run(capsys, "rm", lora("c"), "--json")
    document = json.loads(out)
    assert (code, document["size"]) == (0, 0)
    assert [entry["name"] for entry in document["removed"]] == [lora("c")]
    assert names(root) == set()


def test_rm_refuses_what_is_unknown_not_ours_or_held(capsys, root):
    put_file(root, "a", 15, used=1)
    (root / "photos").mkdir()
    with holding(root / lora("b")):
        for name, expected in (("x", 2), ("photos", 2), (lora("b"), 1)):
            code, out, err = run(capsys, "rm", lora("a"), name)
            assert (code, out) == (expected, "")
            assert err.startswith("cogvideox cache: ")
            assert err.count("\n") == 1
            assert name in err
    assert names(root) == {lora("a"), lora("b"), "photos"}


def test_prune_goes_to_the_limit_of_the_environment_or_the_one_given(capsys, root, monkeypatch):
    for letter, used in zip("abc", (2, 1, 3), strict=True):
        put_file(root, letter, 1000, used=used)
    assert run(capsys, "prune") == (0, f"3.0 kB in {root}, no limit\n", "")
    monkeypatch.setenv("COGVIDEOX_CACHE_LIMIT", "2kB")
    _, out, _ = run(capsys, "prune")
    assert out == (f"Removed {lora('b')} (file, 1.0 kB)\n2.0 kB in {root}, limit 2.0 kB\n")
    code, out, _ = run(capsys, "prune", "--limit", "1kB", "--json")
    document = json.loads(out)
    assert (code, document["limit"], document["size"]) == (0, 1000, 1000)
    assert [entry["name"] for entry in document["removed"]] == [lora("a")]
    assert names(root) == {lora("c")}


def test_prune_says_what_keeps_it_from_the_limit(capsys, root):
    put_file(root, "a", 15, used=1)
    with holding(root / lora("b")):
        code, out, err = run(capsys, "prune", "--limit", "0")
    assert (code, out.splitlines()[0]) == (1, f"Removed {lora('a')} (file, 15 bytes)")
    assert err == (
        "cogvideox cache: The cache still has 18 bytes. At most 0 bytes are wanted, and live "
        f"processes hold {lora('b')}. End these processes and prune again.\n"
    )


def test_another_folder_can_be_given(capsys, root, tmp_path, monkeypatch):
    put_file(tmp_path / "other", "a", 15, used=1)
    monkeypatch.chdir(tmp_path)
    _, out, _ = run(capsys, "ls", "--cache", "other")
    assert out.splitlines()[-1] == f"15 bytes in {tmp_path / 'other'}, no limit"
    run(capsys, "prune", "--cache", "other", "--limit", "0")
    assert names(tmp_path / "other") == set()
    assert not root.exists()


def test_without_a_choice_it_is_the_checkouts_own(capsys, monkeypatch):
    monkeypatch.delenv("COGVIDEOX_CACHE", raising=False)
    monkeypatch.delenv("COGVIDEOX_CACHE_LIMIT", raising=False)
    _, out, _ = run(capsys, "ls", "--json")
    assert json.loads(out)["cache"] == str(INSTALLED)


@pytest.mark.parametrize(
    "arguments",
    [("prune", "--limit", "much"), ("ls",), ("rm", "x")],
    ids=["option", "ls", "rm"],
)
def test_a_limit_that_is_no_size_is_code_2(capsys, root, monkeypatch, arguments):
    if arguments[0] != "prune":
        monkeypatch.setenv("COGVIDEOX_CACHE_LIMIT", "much")
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert "'much', which is not a size" in err


@pytest.mark.parametrize("arguments", [(), ("rm",), ("list",)])
def test_wrong_usage_is_code_2(capsys, root, arguments):
    with pytest.raises(SystemExit) as ended:
        run(capsys, *arguments)
    assert ended.value.code == 2


def test_debug_goes_after_the_action_too(capsys, root):
    for arguments in (("rm", "x", "--debug"), ("--debug", "rm", "x")):
        with pytest.raises(Exception, match="There is no 'x'"):
            run(capsys, *arguments)
    assert not os.path.lexists(root)
