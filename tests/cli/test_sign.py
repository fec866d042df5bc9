"""`cogvideox sign`: what it prints, writes and answers."""

import dataclasses
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cli.main import main
from weights.lock import Lock, LockedFile, read_lock, write_lock
from weights.signature import check_signature

FILES = (LockedFile("a/b.json", 2, "sha256:" + "1" * 64, 1024),)
LOCK = Lock(
    name="mine",
    variant="nano",
    dtype="float32",
    url="my-1.5.tar",
    size=10240,
    digest="sha256:" + "2" * 64,
    files=FILES,
)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key, with the public one beside it as key.pub."""
    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "keys" / "key.pem"
    path.parent.mkdir()
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.with_suffix(".pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return path


@pytest.fixture
def tarball(tmp_path: Path) -> Path:
    """Where a tarball would be; its lock is there. The tarball itself is not needed."""
    write_lock(LOCK, tmp_path / "my-1.5.lock.json")
    return tmp_path / "my-1.5.tar"


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_signs_what_the_lock_beside_a_tarball_names(capsys, tarball, key):
    code, out, err = run(capsys, "sign", tarball, "--private-key", key)
    assert (code, err) == (0, "")
    assert out == f"Signed 1 files of mine: {tarball}.sig\n"
    check_signature(read_lock(tarball.with_suffix(".lock.json")), key.with_suffix(".pub"))


def test_signs_what_the_lock_beside_a_split_folder_names(capsys, tmp_path, key):
    files = tuple(dataclasses.replace(file, offset=None) for file in FILES)
    lock = dataclasses.replace(LOCK, url="my-1.5/", size=None, digest=None, files=files)
    write_lock(lock, tmp_path / "my-1.5.lock.json")
    (tmp_path / "my-1.5").mkdir()
    code, _, err = run(capsys, "sign", f"{tmp_path}/my-1.5/", "--private-key", key)
    assert (code, err) == (0, "")
    assert (tmp_path / "my-1.5.sig").is_file()
    check_signature(read_lock(tmp_path / "my-1.5.lock.json"), key.with_suffix(".pub"))


def test_json_is_one_document(capsys, tarball, tmp_path, key):
    place = tmp_path / "elsewhere.sig"
    arguments = ["--private-key", key, "--signature", place, "--json"]
    code, out, err = run(capsys, "sign", tarball, *arguments)
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "signature": str(place),
        "name": "mine",
        "setDigest": LOCK.set_digest,
        "files": 1,
    }
    check_signature(LOCK, key.with_suffix(".pub"), place)
    assert not tarball.with_name("my-1.5.tar.sig").exists()


def test_bad_input_is_one_line_and_code_2(capsys, tarball, tmp_path, key):
    unpinned = Lock(name="n", variant=None, dtype=None, url="x.tar")
    write_lock(unpinned, tmp_path / "unpinned.lock.json")
    before = sorted(tmp_path.rglob("*"))
    for arguments in (
        (tmp_path / "gone.tar", "--private-key", key),
        (tmp_path / "my-1.5.lock.json", "--private-key", key),
        (tmp_path / "unpinned.tar", "--private-key", key),
        (tarball, "--private-key", tmp_path / "gone.pem"),
        (tarball, "--private-key", key.with_suffix(".pub")),
        (tarball, "--private-key", key, "--signature", tarball),
    ):
        code, out, err = run(capsys, "sign", *arguments)
        assert (code, out) == (2, ""), arguments
        assert err.startswith("cogvideox sign: ")
        assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_private_key_is_required(capsys, tarball):
    with pytest.raises(SystemExit) as exit_:
        main(["sign", str(tarball)])
    assert exit_.value.code == 2
    assert "--private-key" in capsys.readouterr().err


def test_an_unwritable_place_is_code_1(capsys, tarball, tmp_path, key):
    arguments = ["--private-key", key, "--signature", tmp_path / "gone" / "x.sig"]
    code, out, err = run(capsys, "sign", tarball, *arguments)
    assert (code, out) == (1, "")
    assert "can't be written" in err
