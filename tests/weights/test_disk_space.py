"""A full disk is told with both numbers."""

import shutil

import pytest

from weights.disk_space import check_space
from weights.errors import OperationError


def test_space_is_compared_with_what_is_free(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    check_space(tmp_path, free // 2)
    with pytest.raises(OperationError, match="free"):
        check_space(tmp_path, free * 2)


def test_both_sizes_are_told_also_of_a_folder_to_come(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=24_600_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    check_space(tmp_path / "not" / "yet", 24_600_000_000)
    with pytest.raises(OperationError, match=r"has 24\.6 GB free\. 25\.0 GB are needed"):
        check_space(tmp_path / "not" / "yet", 25_000_000_000)
