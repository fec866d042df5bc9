import hashlib
from pathlib import Path

HERE = Path(__file__).resolve().parent


def test_the_golden_data_are_unaltered():
    listed = dict(
        reversed(line.split("  ", 1)) for line in (HERE / "golden.sha256").read_text().splitlines()
    )
    found = {
        path.relative_to(HERE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (HERE / "golden").rglob("*")
        if path.is_file()
    }
    assert found == listed
