"""Sign packed weights with your private key, so that others can fetch them with your public one.

The signature says which files the lock beside OUT names, with their digests; the tarball itself is
not read. It is one of OpenSSF model signing: `model_signing verify key` checks an install with it
too. Upload it beside the weights, where `cogvideox fetch --public-key` looks for it.
"""

import argparse
import json
from pathlib import Path

from weights.errors import UserError
from weights.lock import read_lock
from weights.signature import SUFFIX, sign

EXAMPLES = """examples:
  openssl ecparam -genkey -name prime256v1 -noout -out key.pem    # keep this one secret
  openssl ec -in key.pem -pubout -out key.pub                     # and publish this one
  cogvideox sign checkpoints/my-5b.tar --private-key key.pem
  cogvideox fetch checkpoints/my-5b.lock.json checkpoints/my-5b-installed --public-key key.pub
  model_signing verify key checkpoints/my-5b-installed \\
      --signature checkpoints/my-5b.tar.sig --public_key key.pub
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights", type=Path, metavar="OUT", help="a packed OUT.tar, or the folder of a split pack"
    )
    parser.add_argument(
        "--private-key", type=Path, required=True, metavar="KEY.pem", help="an elliptic curve key"
    )
    parser.add_argument(
        "--signature", type=Path, metavar="PATH", help=f"what to write (default: OUT{SUFFIX})"
    )
    parser.add_argument("--json", action="store_true", help="print what was signed as JSON")


def _lock_file(weights: Path) -> Path:
    """Where `cogvideox pack` put the lock."""
    if weights.is_dir():
        return weights.parent / f"{weights.name}.lock.json"
    if weights.suffix != ".tar":
        raise UserError(
            f"{weights} is no packed weights.",
            "OUT.tar is expected, or the folder of a split pack, with its lock beside it.",
            "Check the path, or make it with `cogvideox pack`.",
        )
    return weights.with_suffix(".lock.json")


def run(options: argparse.Namespace) -> int:
    lock = read_lock(_lock_file(options.weights))
    signature = options.signature or options.weights.parent / f"{options.weights.name}{SUFFIX}"
    if signature.suffix != SUFFIX:  # so that no typo overwrites weights or a key
        raise UserError(
            f"The signature would be {signature}.",
            f"A name that ends in {SUFFIX} is expected.",
            "Change the name.",
        )
    sign(lock, options.private_key, signature)
    if options.json:
        signed = {
            "signature": str(signature),
            "name": lock.name,
            "setDigest": lock.set_digest,
            "files": len(lock.files),
        }
        print(json.dumps(signed, indent=2))
    else:
        print(f"Signed {len(lock.files)} files of {lock.name}: {signature}")
    return 0
