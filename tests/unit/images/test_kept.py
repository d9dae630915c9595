# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are built and kept in the cache: built once, and again where they are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvtime.errors import ImagesError
from pvtime.images.cache import silent
from pvtime.images.kept import Kept, kept


class Builder:
    """A build that is counted, and what was said of it."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.builds = 0
        self.told: list[str] = []

    def get(self, pattern: str = "thing-*-key") -> Kept:
        """Return the file."""
        return kept(self.cache / "things" / pattern, self.cache / "lock", self._tell, self._build)

    def _build(self) -> Kept:
        self.builds += 1
        return Kept("thing-1.5-key", b"archive")

    def _tell(self, description: str, completed_bytes: int, total_bytes: int | None) -> None:
        self.told.append(description)


def test_a_file_is_built_once_and_found_by_its_stem(tmp_path: Path) -> None:
    builder = Builder(tmp_path)
    assert builder.get() == builder.get() == builder.get("thing-1.5-key") == ("thing-1.5-key", b"archive")
    assert (builder.builds, builder.told) == (1, [])
    assert builder.get("thing-*-other") == ("thing-1.5-key", b"archive")
    assert builder.builds == 2, "another key's file was taken"


@pytest.mark.parametrize("damage", [b"", b"archivf", b"archive and more"])
def test_a_damaged_file_is_told_and_built_again(damage: bytes, tmp_path: Path) -> None:
    # A flipped bit in the lab's archive, which only its existence was asked of, ended in a kernel's panic.
    builder = Builder(tmp_path)
    builder.get()
    (path,) = (tmp_path / "things").iterdir()
    path.write_bytes(damage)
    assert builder.get().data == b"archive"
    assert builder.told == [f"{path} is damaged: building it again"]
    assert path.read_bytes() == b"archive"


def test_a_cache_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    builder = Builder(tmp_path)
    builder.get()
    (path,) = (tmp_path / "things").iterdir()
    path.unlink()
    path.mkdir()
    with pytest.raises(ImagesError, match=f"{path}: cannot keep guest images here"):
        kept(tmp_path / "things" / "thing-1.5-key", tmp_path / "lock", silent, builder.get)
