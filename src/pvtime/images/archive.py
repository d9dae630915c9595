# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's arm64 packages, fetched by an apt with a directory of its own.

It needs no root, and nothing of the system's apt is touched. apt verifies what it downloads as always: the
signature of the Release file, from there on hashes.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from pvtime.errors import ImagesError
from pvtime.images.aptconf import NO_APT, configure, error_reason
from pvtime.images.cache import ELSEWHERE, FetchProgress, cache_errors, exclusive, require_room, silent

__all__ = ["ARCHITECTURE", "Archive"]

STATUS: Final = re.compile(r"dlstatus:[0-9]+:([0-9.]+):")
DEPENDS: Final = re.compile(r" (?P<alternative>[ |])(?:Pre)?Depends: (?P<package>\S+)")
UNKNOWN: Final = re.compile("Unable to locate package|No packages found|no candidate|Can't find a source")
"""apt's errors about a package that no source has."""
REMOTE: Final = re.compile(r"'[^']*' (\S+) ([0-9]+) (\w+):([0-9a-f]+)")

LISTS_ROOM: Final = 96 << 20
"""Bytes: apt's package lists and its cache of them take 55 MiB for Debian 12, and more while updating."""


ARCHITECTURE: Final = "arm64"
"""The guests'."""


class Archive:
    """The packages that the system's apt sources have for an architecture, downloaded into ``cache``.

    The package lists are updated once in the life of an object. Of two processes that use the same cache, the
    second one waits.
    """

    def __init__(
        self, cache: Path, progress: FetchProgress = silent, architecture: str = ARCHITECTURE
    ) -> None:
        self._architecture = architecture
        name = "archive" if architecture == ARCHITECTURE else f"archive-{architecture}"
        self._root = cache / name
        self._lock = cache / f"{name}.lock"
        self._progress = progress
        self._stale: str | None = None
        """Why the lists could not be brought up to date; empty if they could; None before the attempt."""

    def show(self, package: str) -> dict[str, str]:
        """Return the fields of the newest version of ``package``, such as Depends; empty if no source has it.

        :raises ImagesError: no apt, no sources, no room.
        """
        with self._apt() as apt:
            return apt.show(package)

    def with_libraries(self, package: str) -> list[str]:
        """Return ``package`` and the library packages that it needs, directly or indirectly, sorted.

        :raises ImagesError: no source has it, no apt, no room.
        """
        if not self.show(package):
            raise ImagesError(self.missing(package))
        with self._apt() as apt:
            needs = apt.dependencies(package)
        found = [package]
        for name in found:  # the list grows meanwhile
            found += [need for need in needs.get(name, ()) if need.startswith("lib") and need not in found]
        return sorted(set(found))

    def download(self, packages: Sequence[str]) -> dict[str, Path]:
        """Download the newest versions of ``packages``, not what they depend on; return the files by name.

        A file that is already in the cache is not downloaded again, and a broken download is resumed.

        :raises ImagesError: no source has one of them, no apt, no network, no room, or a wrong hash.
        """
        with self._apt() as apt:
            remotes = self._locate(apt, packages)
            files = {package: self._root / "packages" / remote.file for package, remote in remotes.items()}
            require_room(self._root, sum(remote.size for remote in remotes.values()))
            self._fetch(apt, remotes, files)
            return files

    def _fetch(self, apt: _Apt, remotes: Mapping[str, _RemotePackage], files: Mapping[str, Path]) -> None:
        """Have apt download ``files``; those that a crash of this machine left damaged, a second time."""
        total = sum(remote.size for remote in remotes.values())
        description = f"downloading {', '.join(remotes)}"

        def progress(percent: float) -> None:
            self._progress(description, int(percent * total / 100), total)

        wrong = list(remotes)
        for _ in range(2):
            apt.download(wrong, self._root / "packages", progress)
            wrong = [package for package in wrong if not remotes[package].matches(files[package])]
            if not wrong:
                progress(100)
                return
            for package in wrong:
                files[package].unlink(missing_ok=True)
        raise ImagesError(f"{files[wrong[0]]}: its hash is not the archive's: fetch again later")

    def _locate(self, apt: _Apt, packages: Sequence[str]) -> dict[str, _RemotePackage]:
        """Look up packages with one start of apt, which takes 0.12 s for one and for 56 of them."""
        try:
            found = {remote.package: remote for remote in apt.locate(packages)}
        except ImagesError:  # which of them it lacks is told by a look-up of each
            found = {}
        return {package: found.get(package) or self._locate_one(apt, package) for package in packages}

    def _locate_one(self, apt: _Apt, package: str) -> _RemotePackage:
        try:
            return apt.locate([package])[0]
        except (ImagesError, IndexError) as error:
            if isinstance(error, ImagesError) and not self._stale and not UNKNOWN.search(str(error)):
                raise
            raise ImagesError(self.missing(package)) from error

    def missing(self, package: str) -> str:
        """Return the message for a package that no source has."""
        if self._stale:
            return self._stale
        wanted = f"{package} for {self._architecture}"
        return f"the system's apt sources have no {wanted}: add Debian's to them"

    @contextmanager
    def _apt(self) -> Iterator[_Apt]:
        with exclusive(self._lock, self._progress) as lock, cache_errors(self._root):
            apt = _Apt(self._root, lock)
            if self._stale is None:
                configure(self._root, self._architecture)
                require_room(self._root, LISTS_ROOM)
                description = f"updating the package lists of {self._architecture}"
                self._stale = apt.update(lambda _: self._progress(description, 0, None))
            yield apt


@dataclass(frozen=True)
class _RemotePackage:
    """A package in the archive: the name of its file, its size in bytes, and its signed hash."""

    file: str
    size: int
    algorithm: str
    digest: str

    @property
    def package(self) -> str:
        """The package's name, with which its file's begins."""
        return self.file.partition("_")[0]

    def matches(self, path: Path) -> bool:
        """Whether ``path`` is that file, complete and undamaged."""
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, self.algorithm).hexdigest() == self.digest
        except FileNotFoundError:
            return False


@dataclass(frozen=True)
class _Apt:
    """apt with all its state in ``root``. ``lock`` is a descriptor that its processes inherit."""

    root: Path
    lock: int

    def update(self, progress: Callable[[float], None]) -> str:
        """Update the package lists; return the reason of a failure, or nothing.

        A failure need not matter: the package may be in another list, or in the old one.
        """
        try:
            self._run("apt-get", "update", "-q", progress=progress)
        except ImagesError as error:
            return str(error)
        return ""

    def show(self, package: str) -> dict[str, str]:
        """Return the fields of the newest version of ``package``; empty if no source has it.

        :raises ImagesError: apt failed for another reason.
        """
        try:
            text = self._run("apt-cache", "show", "--no-all-versions", package)
        except ImagesError as error:
            if not UNKNOWN.search(str(error)):
                raise
            return {}
        fields = re.findall(r"^([\w-]+): (.*)$", text, re.MULTILINE)
        return dict(fields)

    def dependencies(self, package: str) -> dict[str, list[str]]:
        """Return the packages that each of ``package`` and all below it depends on.

        Of alternatives, the first, as apt takes it.
        """
        text = self._run("apt-cache", "depends", "--recurse", "--important", package)
        needs: dict[str, list[str]] = {}
        name, is_alternative = "", False
        for line in text.splitlines():
            if not line.startswith(" "):
                name = line
            elif match := DEPENDS.fullmatch(line):
                if not is_alternative:
                    needs.setdefault(name, []).append(match["package"])
                is_alternative = match["alternative"] == "|"
        return needs

    def locate(self, packages: Sequence[str]) -> list[_RemotePackage]:
        """Look up the files of the newest versions of ``packages``.

        :raises ImagesError: no source has one of them.
        """
        text = self._run("apt-get", "download", "--print-uris", "-qq", *packages)
        return [
            _RemotePackage(match[1], int(match[2]), match[3].lower(), match[4])
            for match in REMOTE.finditer(text)
        ]

    def download(self, packages: Sequence[str], directory: Path, progress: Callable[[float], None]) -> None:
        """Download into ``directory``, resuming partial files. ``progress`` gets 0 to 100.

        apt (2.6) verifies what it downloads, but accepts an existing file by its size alone.

        :raises ImagesError: no network, a hash that is not the signed one, no room.
        """
        self._run("apt-get", "download", "-qq", *packages, progress=progress, directory=directory)

    def _run(
        self,
        program: str,
        *arguments: str,
        progress: Callable[[float], None] | None = None,
        directory: Path | None = None,
    ) -> str:
        environment = {**os.environ, "APT_CONFIG": str(self.root / "apt.conf"), "LC_ALL": "C"}
        with cache_errors(self.root), tempfile.TemporaryFile(dir=self.root) as out, \
             tempfile.TemporaryFile(dir=self.root) as err:  # fmt: skip
            read_end, write_end = os.pipe()
            with os.fdopen(read_end) as status:
                try:
                    process = subprocess.Popen(
                        [program, "-o", f"APT::Status-Fd={write_end}", *arguments],
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=err,
                        env=environment,
                        cwd=directory or self.root,
                        pass_fds=(write_end, self.lock),
                    )
                except FileNotFoundError as error:
                    raise ImagesError(NO_APT) from error
                finally:
                    os.close(write_end)
                code = _follow(process, status, progress)
            if code:
                raise ImagesError(f"{program} failed: {error_reason(_text(err))}: try again, or {ELSEWHERE}")
            return _text(out)


def _follow(
    process: subprocess.Popen[bytes], status: IO[str], progress: Callable[[float], None] | None
) -> int:
    """Report the process's progress until it ends; if that is interrupted, end the process."""
    try:
        for line in status:
            if progress and (match := STATUS.match(line)):
                progress(float(match[1]))
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
