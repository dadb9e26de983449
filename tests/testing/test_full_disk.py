"""Disks of the test kit refuse as real ones do, and give everything back."""

from __future__ import annotations

import errno
import resource
import signal
from pathlib import Path

import pytest

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.testing import can_mount, file_size_limit, small_disk


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount a disk in memory")
def test_a_small_disk_is_full_when_it_is_full_and_gone_afterwards(tmp_path: Path) -> None:
    with small_disk(tmp_path, n_bytes=1 << 16) as folder:
        with pytest.raises(OSError, match="No space left") as caught:
            (folder / "a").write_bytes(bytes(1 << 17))
        assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_mounted_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(SentinelError) as caught, small_disk(tmp_path / "none", n_bytes=1):
        pass
    assert caught.value.code is ErrorCode.FILE_UNWRITABLE
    assert caught.value.at == str(tmp_path / "none")
    assert "file_size_limit" in caught.value.hint


def test_a_file_size_limit_holds_for_a_while(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    with file_size_limit(1000):
        (tmp_path / "small").write_bytes(bytes(1000))
        with pytest.raises(OSError, match="File too large") as caught:
            (tmp_path / "large").write_bytes(bytes(1001))
        assert caught.value.errno == errno.EFBIG
    after = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    assert after == before
    (tmp_path / "large").write_bytes(bytes(1001))
