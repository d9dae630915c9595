# SPDX-License-Identifier: GPL-2.0-or-later
"""Run apt for arm64 in a directory of its own: no root, and nothing of the system's apt is touched.

What apt downloads it verifies as always: the signature of the Release file, from there on hashes. Where its
configuration comes from: :mod:`pvtime.images.aptconf`.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from pvtime.errors import ImagesError
from pvtime.images.aptconf import GIVE, NO_APT, reason
from pvtime.images.cache import explained

__all__ = ["Apt", "Remote"]

STATUS: Final = re.compile(r"dlstatus:\d+:([\d.]+):")
REMOTE: Final = re.compile(r"'[^']*' (\S+) (\d+) (\w+):([0-9a-f]+)")


@dataclass(frozen=True)
class Remote:
    """A package as the archive has it: the name of its file, its size in bytes, and its signed hash."""

    file: str
    size: int
    algorithm: str
    digest: str

    def matches(self, path: Path) -> bool:
        """Whether ``path`` is that file, whole."""
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, self.algorithm).hexdigest() == self.digest
        except FileNotFoundError:
            return False


@dataclass(frozen=True)
class Apt:
    """apt with all its state in ``root``. ``lock`` is a descriptor that its processes inherit."""

    root: Path
    lock: int

    def update(self, progress: Callable[[float], None]) -> str:
        """Bring the package lists up to date. Return why some are not, or nothing.

        An old list may still do, and so may the others: that is for the caller to find out.
        """
        try:
            self._run("apt-get", "update", "-q", progress=progress)
        except ImagesError as error:
            return str(error)
        return ""

    def show(self, package: str) -> dict[str, str]:
        """Return the fields of the newest version of ``package``; empty if no source has it."""
        try:
            text = self._run("apt-cache", "show", "--no-all-versions", package)
        except ImagesError:
            return {}
        fields = re.findall(r"^([\w-]+): (.*)$", text, re.MULTILINE)
        return dict(fields)

    def locate(self, packages: Sequence[str]) -> list[Remote]:
        """Say where the newest versions of ``packages`` are.

        :raises ImagesError: no source has one of them.
        """
        text = self._run("apt-get", "download", "--print-uris", "-qq", *packages)
        return [
            Remote(match[1], int(match[2]), match[3].lower(), match[4]) for match in REMOTE.finditer(text)
        ]

    def download(self, packages: Sequence[str], directory: Path, progress: Callable[[float], None]) -> None:
        """Download into ``directory``, going on with what is there in part. ``progress`` gets 0 to 100.

        apt (2.6) verifies what it downloads, but takes a file that is there for good by its size alone.

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
        with explained(self.root), tempfile.TemporaryFile(dir=self.root) as out, \
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
                raise ImagesError(f"{program} failed: {reason(_text(err))}: {GIVE}")
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
