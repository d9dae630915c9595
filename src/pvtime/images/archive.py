# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's arm64 packages, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pvtime.errors import ImagesError
from pvtime.images.apt import Apt, Remote
from pvtime.images.aptconf import GIVE, configure
from pvtime.images.cache import exclusive, explained, require_room
from pvtime.images.progress import Progress, silent

__all__ = ["Archive"]

LISTS_ROOM: Final = 96 << 20
"""Bytes: apt's package lists and its cache of them take 55 MiB for Debian 12, and more while updating."""


class Archive:
    """The packages that the system's apt sources have for arm64, downloaded into ``cache``.

    The package lists are brought up to date once in the life of an object. Two processes may use the same
    cache: the second one waits.
    """

    def __init__(self, cache: Path, progress: Progress = silent) -> None:
        self._root = cache / "archive"
        self._lock = cache / "archive.lock"
        self._progress = progress
        self._stale: str | None = None
        """Why the lists could not be brought up to date; empty if they could; None before the attempt."""

    def show(self, package: str) -> dict[str, str]:
        """Return the fields of the newest version of ``package``, such as Depends; empty if no source has it.

        :raises ImagesError: no apt, no sources, no room.
        """
        with self._apt() as apt:
            return apt.show(package)

    def download(self, packages: Sequence[str]) -> dict[str, Path]:
        """Download the newest versions of ``packages``, not what they depend on; return the files by name.

        What is there already is not downloaded again, and a broken download goes on where it broke.

        :raises ImagesError: no source has one of them, no apt, no network, no room, or a wrong hash.
        """
        with self._apt() as apt:
            remotes = {package: self._locate(apt, package) for package in packages}
            files = {package: self._root / "packages" / remote.file for package, remote in remotes.items()}
            require_room(self._root, sum(remote.size for remote in remotes.values()))
            self._fetch(apt, remotes, files)
            return files

    def _fetch(self, apt: Apt, remotes: Mapping[str, Remote], files: Mapping[str, Path]) -> None:
        """Have apt download ``files``, and once more those that a crash of this machine left damaged."""
        total = sum(remote.size for remote in remotes.values())
        what = f"downloading {', '.join(remotes)}"

        def progress(percent: float) -> None:
            self._progress(what, int(percent * total / 100), total)

        wrong = list(remotes)
        for _ in range(2):
            apt.download(wrong, self._root / "packages", progress)
            wrong = [package for package in wrong if not remotes[package].matches(files[package])]
            if not wrong:
                progress(100)
                return
            for package in wrong:
                files[package].unlink(missing_ok=True)
        raise ImagesError(f"{files[wrong[0]]}: its hash is not the archive's: fetch again later, or {GIVE}")

    def _locate(self, apt: Apt, package: str) -> Remote:
        try:
            return apt.locate([package])[0]
        except (ImagesError, IndexError) as error:
            raise ImagesError(self.missing(package)) from error

    def missing(self, package: str) -> str:
        """Return a line that says why there is no ``package``."""
        if self._stale:
            return self._stale
        return f"the system's apt sources have no {package} for arm64: add Debian's to them, or {GIVE}"

    @contextmanager
    def _apt(self) -> Iterator[Apt]:
        with exclusive(self._lock, self._progress) as lock, explained(self._root):
            apt = Apt(self._root, lock)
            if self._stale is None:
                configure(self._root)
                require_room(self._root, LISTS_ROOM)
                what = "updating the package lists of arm64"
                self._stale = apt.update(lambda _: self._progress(what, 0, None))
            yield apt
