"""Signatures of what a lock names: standard ones, and nothing else passes for one."""

import base64
import dataclasses
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weights.errors import OperationError, UserError
from weights.lock import Lock, LockedFile, read_lock, write_lock
from weights.paths import MARKER
from weights.signature import check_signature, sign, signature_url

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
TRADITIONAL = serialization.PrivateFormat.TraditionalOpenSSL
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo
PLAIN = serialization.NoEncryption()


def private_pem(key, form=TRADITIONAL, encryption=PLAIN) -> bytes:
    return key.private_bytes(PEM, form, encryption)


def public_pem(key) -> bytes:
    return key.public_key().public_bytes(PEM, SPKI)


class Keys:
    """A pair of keys as files."""

    def __init__(self, folder: Path, curve: ec.EllipticCurve) -> None:
        folder.mkdir(parents=True)
        key = ec.generate_private_key(curve)
        self.private, self.public = folder / "key.pem", folder / "key.pub"
        self.private.write_bytes(private_pem(key))
        self.public.write_bytes(public_pem(key))


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys") / "ours", ec.SECP256R1())


@pytest.fixture
def signature(packed, keys, tmp_path) -> Path:
    """The signature of `packed`, where fetch looks for it."""
    sign(packed, keys.private, tmp_path / "weights.tar.sig")
    return tmp_path / "weights.tar.sig"


def model_signing(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The plain command of OpenSSF model signing."""
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def with_files(lock: Lock, *files: LockedFile) -> Lock:
    return dataclasses.replace(lock, files=files)


def altered(lock: Lock) -> Lock:
    """`lock` with another digest for its last file."""
    *files, last = lock.files
    return with_files(lock, *files, dataclasses.replace(last, digest="sha256:" + "0" * 64))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_signed_weights_pass(packed, tmp_path, curve):
    keys = Keys(tmp_path / "keys", curve)
    sign(packed, keys.private, tmp_path / "weights.tar.sig")
    check_signature(packed, keys.public)


def test_a_pair_made_by_openssl_works(packed, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl on PATH")
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    for command in (
        f"openssl ecparam -genkey -name prime256v1 -noout -out {private}",
        f"openssl ec -in {private} -pubout -out {public}",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    sign(packed, private, tmp_path / "weights.tar.sig")
    check_signature(packed, public)


def test_plain_model_signing_accepts_an_install_and_refuses_a_changed_one(
    folder, keys, signature, packed, tmp_path
):
    write_lock(packed, folder / MARKER)
    verify = ["verify", "key", folder, "--signature", signature, "--public_key", keys.public]
    done = model_signing(*verify)
    assert (done.returncode, done.stdout) == (0, "Verification succeeded\n"), done.stderr
    (folder / "vae" / "config.json").write_text("{ }")
    assert model_signing(*verify).returncode == 1


def test_a_signature_by_plain_model_signing_passes(folder, keys, packed, tmp_path):
    signature = tmp_path / "model.sig"
    done = model_signing(
        "sign", "key", folder, "--private_key", keys.private, "--signature", signature
    )
    assert done.returncode == 0, done.stderr
    check_signature(packed, keys.public, signature)
    with pytest.raises(OperationError, match="genuine"):
        check_signature(altered(packed), keys.public, signature)


def test_a_signature_that_ignores_files_is_not_one_of_them(folder, keys, packed, tmp_path):
    signature = tmp_path / "model.sig"
    arguments = ["--private_key", keys.private, "--signature", signature]
    ignored = folder / "transformer"
    done = model_signing("sign", "key", folder, *arguments, "--ignore-paths", ignored)
    assert done.returncode == 0, done.stderr
    with pytest.raises(OperationError, match="genuine"):
        check_signature(packed, keys.public, signature)


def test_the_place_of_the_weights_is_not_signed(packed, keys, signature):
    files = [dataclasses.replace(file, offset=None) for file in reversed(packed.files)]
    for lock in (
        dataclasses.replace(packed, url="https://example.com/other.tar"),
        dataclasses.replace(packed, url=None, name="other", size=packed.size + 512),
        dataclasses.replace(packed, url="split/", digest=None, size=None, files=tuple(files)),
    ):
        check_signature(lock, keys.public, signature)


def test_other_files_are_not_the_signed_ones(packed, keys, signature):
    first, *rest = packed.files
    for lock in (
        altered(packed),
        with_files(packed, *rest),
        with_files(packed, *packed.files, dataclasses.replace(first, path="extra.py")),
        with_files(packed, dataclasses.replace(first, path="moved.json"), *rest),
    ):
        with pytest.raises(OperationError, match="genuine signature, but not of the files"):
            check_signature(lock, keys.public)


DIGESTS = st.sampled_from([f"sha256:{digit * 64}" for digit in "0123"])
NAMES = st.sampled_from(["a", "b.json", "a:b", "ä ö/✓", "-x", "a%20b", ".gitattributes"])
FILES = st.dictionaries(NAMES, DIGESTS, min_size=1)


@settings(deadline=None, max_examples=30)
@given(signed=FILES, named=FILES)
def test_exactly_the_signed_files_pass(tmp_path_factory, keys, signed, named):
    def lock(files):
        locked = tuple(LockedFile(path, 1, digest) for path, digest in files.items())
        return Lock(name="n", variant=None, dtype=None, url=None, files=locked)

    signature = tmp_path_factory.getbasetemp() / "property.sig"
    sign(lock(signed), keys.private, signature)
    check_signature(lock(dict(reversed(signed.items()))), keys.public, signature)
    if signed != named:
        with pytest.raises(OperationError, match="genuine"):
            check_signature(lock(named), keys.public, signature)


def test_another_key_is_refused(packed, signature, tmp_path):
    stranger = Keys(tmp_path / "stranger", ec.SECP256R1())
    with pytest.raises(OperationError, match=r"no signature made with the private key of .*\.pub"):
        check_signature(packed, stranger.public)


def bundle(signature: Path) -> dict:
    return json.loads(signature.read_text())


def test_a_signature_rewritten_for_other_files_is_refused(packed, keys, signature):
    document = bundle(signature)
    envelope = document["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"]).decode()
    digest = packed.files[-1].digest.removeprefix("sha256:")
    assert digest in payload
    envelope["payload"] = base64.b64encode(payload.replace(digest, "0" * 64).encode()).decode()
    signature.write_text(json.dumps(document))
    for lock in (packed, altered(packed)):
        with pytest.raises(OperationError, match="no signature made with"):
            check_signature(lock, keys.public)


def test_a_signature_by_another_key_that_claims_ours_is_refused(packed, keys, signature, tmp_path):
    stranger = Keys(tmp_path / "stranger", ec.SECP256R1())
    sign(packed, stranger.private, tmp_path / "strange.sig")
    document = bundle(tmp_path / "strange.sig")
    document["verificationMaterial"] = bundle(signature)["verificationMaterial"]
    signature.write_text(json.dumps(document))
    with pytest.raises(OperationError, match="no signature made with"):
        check_signature(packed, keys.public)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\xff\xfe\x00",
        b"[]",
        b"{}",
        b"null",
        b"[" * 900,
        b'{"verificationMaterial": 1}',
        b'{"verificationMaterial": {"publicKey": []}}',
        b'{"verificationMaterial": {"x509CertificateChain": {"certificates": []}}}',
        b'{"mediaType": %s}' % (b"9" * 5000),
    ],
    ids=range(11),
)
def test_what_is_no_signature_is_refused(packed, keys, signature, data, capsys):
    signature.write_bytes(data)
    with pytest.raises(OperationError, match=r"weights\.tar\.sig is no signature"):
        check_signature(packed, keys.public)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("value", [None, 1, "x", [], [{}], {}, True])
@pytest.mark.parametrize(
    "path",
    [
        ["mediaType"],
        ["verificationMaterial"],
        ["dsseEnvelope"],
        ["dsseEnvelope", "payload"],
        ["dsseEnvelope", "payloadType"],
        ["dsseEnvelope", "signatures"],
        ["dsseEnvelope", "signatures", 0],
        ["dsseEnvelope", "signatures", 0, "sig"],
    ],
    ids=str,
)
def test_fields_of_the_wrong_type_are_refused(packed, keys, signature, path, value):
    document = bundle(signature)
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    signature.write_text(json.dumps(document))
    with pytest.raises(OperationError, match="is no signature"):
        check_signature(packed, keys.public)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_damage_makes_a_signature_fit_another_lock(packed, keys, signature, tmp_path, data):
    text = bytearray(signature.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(text) - 1), max_size=3)):
        text[position] = data.draw(st.integers(0, 255))
    del text[data.draw(st.integers(0, len(text)) | st.just(len(text))) :]
    damaged = tmp_path / "damaged.sig"
    damaged.write_bytes(text)
    with pytest.raises(OperationError):
        check_signature(altered(packed), keys.public, damaged)


def test_a_truncated_signature_is_refused(packed, keys, signature):
    whole = signature.read_bytes()
    for length in (1, len(whole) // 2, len(whole) - 1):
        signature.write_bytes(whole[:length])
        with pytest.raises(OperationError, match="is no signature"):
            check_signature(packed, keys.public)


def test_an_older_signature_warns_on_stderr_only(packed, keys, signature, capsys):
    document = bundle(signature)
    del document["verificationMaterial"]["publicKey"]["hint"]
    signature.write_text(json.dumps(document))
    check_signature(packed, keys.public)
    out, err = capsys.readouterr()
    assert out == ""
    assert "older" in err


def test_weights_without_a_signature_are_refused(packed, keys, tmp_path):
    with pytest.raises(OperationError, match=r"weights\.tar\.sig can't be read"):
        check_signature(packed, keys.public)
    with pytest.raises(UserError, match=r"gone\.sig can't be read") as refused:
        check_signature(packed, keys.public, tmp_path / "gone.sig")
    assert refused.value.exit_code == 2


def test_the_signature_beside_a_split_folder_is_found(packed, keys, tmp_path):
    files = (dataclasses.replace(file, offset=None) for file in packed.files)
    lock = dataclasses.replace(packed, url="my%20model/", digest=None, size=None)
    write_lock(with_files(lock, *files), tmp_path / "x.lock.json")
    lock = read_lock(tmp_path / "x.lock.json")
    sign(lock, keys.private, tmp_path / "my%20model.sig")
    check_signature(lock, keys.public)


def test_the_signature_on_the_web_is_found(packed, keys, signature, server):
    url = server.serve("/at/weights.tar.sig", signature.read_bytes())
    lock = dataclasses.replace(packed, url=f"{url.removesuffix('.sig')}?token=SECRET")
    check_signature(lock, keys.public)
    assert set(server.requests) == {"/at/weights.tar.sig?token=SECRET"}
    server.serve("/at/weights.tar.sig", b"{}")
    with pytest.raises(OperationError, match="is no signature") as refused:
        check_signature(lock, keys.public)
    assert "SECRET" not in str(refused.value)


def test_the_signature_in_a_bucket_is_asked_for_by_a_signed_url(
    packed, keys, signature, server, monkeypatch
):
    served = server.serve("/signed", signature.read_bytes())
    asked = []

    def signed_url(url):
        asked.append(url)
        return f"{served}?X-Amz-Signature=SECRET"

    monkeypatch.setitem(sys.modules, "weights.buckets", SimpleNamespace(signed_url=signed_url))
    lock = dataclasses.replace(packed, url="s3://bucket/at/weights.tar")
    check_signature(lock, keys.public)
    assert asked == ["s3://bucket/at/weights.tar.sig"]
    server.serve("/signed", b"{}")
    with pytest.raises(OperationError, match=r"s3://bucket/at/weights\.tar\.sig is no") as refused:
        check_signature(lock, keys.public)
    assert "SECRET" not in str(refused.value)


def test_unsigned_weights_on_the_web_are_refused(packed, keys, server):
    server.answers["/weights.tar.sig"] = lambda handler: handler.send_error(404)
    lock = dataclasses.replace(packed, url=f"{server.url}/weights.tar?token=SECRET")
    with pytest.raises(OperationError, match=r"No signature of nano was found.*404") as refused:
        check_signature(lock, keys.public)
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize("value", [b"[", b"{},", b"1,"])
def test_a_signature_of_a_million_values_is_not_parsed(packed, keys, signature, value):
    entries = value * 1_000_000
    signature.write_bytes(b'{"verificationMaterial": {"tlogEntries": [%s{}]}}' % entries)
    with pytest.raises(OperationError, match="too large for a signature"):
        check_signature(packed, keys.public)


def test_an_endless_signature_is_given_up(packed, keys, server):
    sent_all = []

    def answer(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(1000):
                handler.wfile.write(bytes(1 << 16))
        except OSError:
            handler.close_connection = True
        else:
            sent_all.append(handler.path)

    server.answers["/weights.tar.sig"] = answer
    lock = dataclasses.replace(packed, url=f"{server.url}/weights.tar")
    with pytest.raises(OperationError, match="too large for a signature"):
        check_signature(lock, keys.public)
    assert not sent_all


def test_a_file_too_large_for_a_signature_is_not_read(packed, keys, tmp_path):
    with (tmp_path / "large.sig").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OperationError, match="too large for a signature"):
        check_signature(packed, keys.public, tmp_path / "large.sig")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.com/x.tar", "https://example.com/x.tar.sig"),
        ("https://example.com/x.tar?a=b&c", "https://example.com/x.tar.sig?a=b&c"),
        ("s3://bucket/at/x.tar", "s3://bucket/at/x.tar.sig"),
        ("gs://bucket/x/", "gs://bucket/x.sig"),
        ("file:///srv/x%20y/", "file:///srv/x%20y.sig"),
    ],
)
def test_a_signature_is_beside_the_weights(url, expected):
    assert signature_url(url) == expected


@pytest.mark.parametrize("url", ["s3://bucket/", "https://example.com"])
def test_nothing_is_beside_a_whole_bucket(url):
    with pytest.raises(UserError, match="no place beside"):
        signature_url(url)


def test_an_unpinned_lock_is_neither_signed_nor_checked(keys, tmp_path):
    lock = Lock(name="n", variant=None, dtype=None, url="x.tar")
    with pytest.raises(UserError, match="not pinned"):
        sign(lock, keys.private, tmp_path / "x.sig")
    with pytest.raises(UserError, match="not pinned"):
        check_signature(lock, keys.public, tmp_path / "x.sig")
    assert not (tmp_path / "x.sig").exists()


EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
LOCKED_AWAY = serialization.BestAvailableEncryption(b"x")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "is not a private key"),
        (b"\xff" * 100, "is not a private key"),
        (public_pem(EC_KEY), "is not a private key"),
        (private_pem(EC_KEY, TRADITIONAL, LOCKED_AWAY), "is encrypted"),
        (private_pem(EC_KEY, PKCS8, LOCKED_AWAY), "is encrypted"),
        (private_pem(RSA_KEY), "of another kind"),
        (private_pem(ed25519.Ed25519PrivateKey.generate(), PKCS8), "of another kind"),
        (private_pem(ec.generate_private_key(ec.SECP256K1())), "of another kind"),
    ],
    ids=range(8),
)
def test_a_private_key_that_can_not_sign_is_refused(packed, tmp_path, data, found):
    (tmp_path / "key.pem").write_bytes(data)
    with pytest.raises(UserError, match=rf"key\.pem .*{found}") as refused:
        sign(packed, tmp_path / "key.pem", tmp_path / "x.sig")
    assert refused.value.exit_code == 2
    assert not (tmp_path / "x.sig").exists()


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "is not a public key"),
        (private_pem(EC_KEY), "is not a public key"),
        (public_pem(RSA_KEY), "of another kind"),
        (public_pem(ec.generate_private_key(ec.SECP256K1())), "of another kind"),
    ],
    ids=range(4),
)
def test_a_public_key_that_can_not_check_is_refused(packed, signature, tmp_path, data, found):
    (tmp_path / "key.pub").write_bytes(data)
    with pytest.raises(UserError, match=rf"key\.pub .*{found}") as refused:
        check_signature(packed, tmp_path / "key.pub")
    assert refused.value.exit_code == 2


def test_a_key_that_is_not_there_is_refused(packed, signature, tmp_path):
    for path in (tmp_path / "gone", tmp_path):
        with pytest.raises(UserError, match="no such file"):
            sign(packed, path, tmp_path / "x.sig")
        with pytest.raises(UserError, match="no such file"):
            check_signature(packed, path)


def test_without_the_extra_it_says_how_to_install_it(packed, keys, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "model_signing"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "OpenSSL", None)  # as where pyopenssl is missing
    for attempt in (
        lambda: sign(packed, keys.private, tmp_path / "x.sig"),
        lambda: check_signature(packed, keys.public),
    ):
        with pytest.raises(UserError, match=r"pip install -r requirements-sign.txt"):
            attempt()


def test_a_signature_that_can_not_be_written_leaves_nothing(packed, keys, tmp_path):
    (tmp_path / "taken.sig").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for path in (tmp_path / "taken.sig", tmp_path / "gone" / "x.sig"):
        with pytest.raises(OperationError, match="can't be written"):
            sign(packed, keys.private, path)
    assert sorted(tmp_path.rglob("*")) == before


def test_signing_again_replaces_the_signature(packed, keys, signature):
    sign(altered(packed), keys.private, signature)
    with pytest.raises(OperationError, match="genuine"):
        check_signature(packed, keys.public)
    sign(packed, keys.private, signature)
    check_signature(packed, keys.public)


def test_the_network_is_not_asked(packed, keys, signature, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("something asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    sign(packed, keys.private, signature)
    check_signature(packed, keys.public)
