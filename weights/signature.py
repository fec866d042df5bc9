"""Signs the weights a lock names with a local key, and checks such signatures.

A signature is an ordinary one of OpenSSF model signing, for a folder of the lock's files: a signed
list of their paths and sha256 digests, in a Sigstore bundle. Locks have these digests already, so
no weights are read, and fetch can check before it downloads; `model_signing verify key` accepts an
install by the same signature. What a lock says beside its files, such as the url, is not signed.
"""

import importlib
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit
from urllib.request import url2pathname

from weights.atomic import replacing
from weights.errors import OperationError, UserError
from weights.fetching.settings import FetchSettings
from weights.fetching.web_reader import WebReader
from weights.lock import Lock, resolve_url
from weights.paths import MARKER
from weights.urls import BUCKET_SCHEMES, shown_url

if TYPE_CHECKING:
    from model_signing.manifest import Manifest

# What a signature's name has more than that of the tarball or folder beside it.
SUFFIX = ".sig"

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
# A signature has some 300 bytes a file, all in one string of base64; as JSON it is ten values. With
# millions of them the library would take gigabytes before it looks at the key.
_MAX_BYTES = 10_000_000
_MAX_VALUES = 1000


class _LockedDigests:
    """Does for model_signing what its `hashing.Config` does, without a folder: it knows."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self.asked = False

    def hash(self, model_path: Path, *, files_to_hash: object = None) -> "Manifest":
        # The library compares manifests only once the signature proved genuine.
        self.asked = True
        from model_signing import manifest

        # Private, and there is no other way to make one: the reason for the pinned version.
        from model_signing._hashing.hashing import Digest

        kind = manifest.SerializationType.from_args(
            {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                # Plain `model_signing verify` then needs no option for an install.
                "ignore_paths": [MARKER],
            }
        )
        digests = {
            file.path: bytes.fromhex(file.digest.removeprefix("sha256:"))
            for file in self._lock.files
        }
        items = [kind.new_item(path, Digest("sha256", value)) for path, value in digests.items()]
        return manifest.Manifest(model_path.name, items, kind)

    def add_ignored_paths(self, *, model_path: Path, paths: Iterable[Path]) -> None:
        """Nothing is ignored, whatever a signature asks for: every file of a lock is installed."""


def _check_pinned(lock: Lock) -> None:
    if not lock.pinned:
        raise UserError(
            f"The lock of {lock.name} is not pinned: it has no digests.",
            "A signature is one of the files' digests.",
            "Install it once without a key, and pin the digests that were seen.",
        )


def _check_extra() -> None:
    try:
        importlib.import_module("model_signing.signing")
    except ImportError:
        raise UserError(
            "The packages that sign and check signatures are not installed.",
            "They are the extra `sign`.",
            "Run `pip install -r requirements-sign.txt` in the checkout.",
        ) from None


def _file_bytes(path: Path, what: str) -> bytes:
    """The file's bytes; of too many, the first ones, more than the limit."""
    try:
        if path.is_file():
            with path.open("rb") as file:
                return file.read(_MAX_BYTES + 1)
        cause = "there is no such file"
    except OSError as error:
        cause = error.strerror or type(error).__name__
    raise UserError(f"{path} can't be read ({cause}).", f"{what} is expected.", "Check the path.")


def _check_key(path: Path, kind: str) -> None:
    """Check that `path` is a "private" or "public" key that model_signing can use."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    expected = f"A plain {kind} key in PEM, of the curve P-256, P-384 or P-521,"
    data = _file_bytes(path, expected)
    found = f"is not a {kind} key in PEM"
    try:
        if kind == "private":
            public = serialization.load_pem_private_key(data, None).public_key()
        else:
            public = serialization.load_pem_public_key(data)
        if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name in _CURVES:
            return
        found = f"is a {kind} key of another kind"
    except TypeError:
        found = "is encrypted"
    except (ValueError, UnsupportedAlgorithm):
        pass
    raise UserError(
        f"{path} {found}.",
        f"{expected} is expected.",
        "`cogvideox sign --help` shows how to make a pair with openssl.",
    )


def sign(lock: Lock, private_key: Path, signature: Path) -> None:
    """Write a signature of the lock's files, made with a PEM file of an elliptic curve key.

    Raises:
        UserError: the lock is not pinned, the key can't be used, or the extra is not installed.
        OperationError: the signature can't be written.
    """
    _check_pinned(lock)
    _check_extra()
    _check_key(private_key, "private")
    from model_signing.signing import Config

    config = Config().set_hashing_config(_LockedDigests(lock))
    config.use_elliptic_key_signer(private_key=private_key)
    try:
        with TemporaryDirectory() as folder, replacing(signature) as file:
            config.sign(Path(lock.name), Path(folder, "signature"))
            file.write(Path(folder, "signature").read_bytes())
    except OSError as error:
        raise OperationError(
            f"The signature {signature} can't be written: {error.strerror}.",
            "A file in a writable folder is expected.",
            "Correct that, or choose another place with --signature.",
        ) from error


def signature_url(url: str) -> str:
    """Where the signature of a tarball or of a split folder at `url` is: beside it.

    Raises:
        UserError: a split folder is the whole bucket or server, so that nothing is beside it.
    """
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    if not path:
        raise UserError(
            f"The weights at {shown_url(url)} have no place beside them for a signature.",
            "A path in the url is expected.",
            "Give the signature with --signature.",
        )
    return urlunsplit(parts._replace(path=f"{path}{SUFFIX}"))


def _web_bytes(url: str) -> bytes:
    """The bytes on the web; of too many, the first ones, more than the limit."""
    reader = WebReader(FetchSettings())
    data = bytearray()
    for chunk in reader.read(reader.probe(url), 0, None):
        data += chunk
        if len(data) > _MAX_BYTES:
            break
    return bytes(data)


def _bytes_beside(lock: Lock) -> tuple[str, bytes]:
    """The signature beside the weights: where that is, to be shown, and its bytes."""
    url = signature_url(resolve_url(lock))
    shown, scheme = shown_url(url), urlsplit(url).scheme
    if scheme in BUCKET_SCHEMES:
        from weights.buckets import signed_url

        url = signed_url(url)
    try:
        if scheme == "file":
            return shown, _file_bytes(Path(url2pathname(urlsplit(url).path)), "A signature")
        return shown, _web_bytes(url)
    except UserError as error:
        raise OperationError(
            f"No signature of {lock.name} was found: {error.given}",
            "With a public key given, the weights have to be signed.",
            "Nothing was downloaded. If there is a signature elsewhere, give it with --signature.",
        ) from error


def _verify(lock: Lock, public_key: Path, shown: str, signature: Path) -> None:
    from model_signing.verifying import Config

    digests = _LockedDigests(lock)
    config = Config().set_hashing_config(digests)
    config.use_elliptic_key_verifier(public_key=public_key)
    try:
        # The library prints a warning on stdout if the signature is of an older format.
        with redirect_stdout(sys.stderr):
            config.verify(Path(lock.name), signature)
    except Exception as error:  # The file may hold anything, and the library raises as much.
        if digests.asked:
            raise OperationError(
                f"{shown} is a genuine signature, but not of the files that the lock of "
                f"{lock.name} names.",
                "The same paths with the same digests are expected.",
                "Nothing was downloaded. Get lock and signature again, from the same place.",
            ) from error
        raise OperationError(
            f"{shown} is no signature made with the private key of {public_key}.",
            "An unchanged signature of OpenSSF model signing is expected.",
            "Nothing was downloaded. Get the signature again, and check whose key this is.",
        ) from error


def check_signature(lock: Lock, public_key: Path, signature: Path | None = None) -> None:
    """Check that the owner of `public_key`, a PEM file, signed exactly the files of the lock.

    Without `signature` the one beside the weights, at their url with `.sig`, is read or downloaded.

    Raises:
        UserError: the lock is not pinned, the key can't be used, `signature` can't be read, or the
            extra is not installed.
        OperationError: there is no signature, or it is not one by that key of these files.
    """
    _check_pinned(lock)
    _check_extra()
    _check_key(public_key, "public")
    if signature is None:
        shown, data = _bytes_beside(lock)
    else:
        shown, data = str(signature), _file_bytes(signature, "A signature")
    if len(data) > _MAX_BYTES or sum(map(data.count, (b"[", b"{", b","))) > _MAX_VALUES:
        raise OperationError(
            f"{shown} is far too large for a signature.",
            f"At most {_MAX_BYTES} bytes of JSON with few values are expected.",
            "Nothing was downloaded. Check that it is the right file.",
        )
    with TemporaryDirectory() as folder:
        file = Path(folder, "signature")
        file.write_bytes(data)
        _verify(lock, public_key, shown, file)
