"""Check an installed weights folder: its marker, all sizes and safetensors headers; all bytes.

Without --full this is the check of every start of a predictor and takes milliseconds: a missing,
cut or rewritten file is found. With --full every file is read and its digest compared.
"""

import argparse
import json
from pathlib import Path

from cli.progress import byte_progress
from weights.install_check import check_install, verify_install

EXAMPLES = """examples:
  cogvideox verify-install checkpoints/my-5b
  cogvideox verify-install checkpoints/my-5b --full
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="an installed weights folder")
    parser.add_argument("--full", action="store_true", help="read every byte")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    marker = check_install(options.folder)
    if options.full:
        with byte_progress("Verifying", marker.files_size) as advance:
            verify_install(options.folder, progress=advance)
    if options.json:
        fields = {
            "path": str(options.folder),
            "name": marker.name,
            "variant": marker.variant,
            "setDigest": marker.set_digest,
            "files": len(marker.files),
            "size": marker.files_size,
            "full": options.full,
        }
        print(json.dumps(fields, indent=2))
    else:
        what = "every byte" if options.full else "sizes and headers"
        print(
            f"{options.folder} is a whole install of {marker.name}: {len(marker.files)} files, "
            f"{marker.files_size} bytes ({what} checked)."
        )
    return 0
