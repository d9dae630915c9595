# SPDX-License-Identifier: GPL-2.0-or-later
"""Stand-ins for apt and dpkg-deb on PATH, and an archive with the packages of a Debian release for them.

Their directory holds the archive in ``packages``, what was called in ``log``, and what shall go wrong
in ``mode``. A package is a plain tar file; the stand-in for dpkg-deb has nothing to unpack.
"""

from __future__ import annotations

import io
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from framework import fake_apt_programs

__all__ = ["KERNEL", "META", "SIGNED", "FakeApt"]

PROGRAMS = ("apt-cache", "apt-config", "apt-get", "dpkg-deb")
META = "linux-image-cloud-arm64"
SIGNED = "linux-image-6.9.9-1-cloud-arm64"
KERNEL = b"kernel" * 20_000


@dataclass(frozen=True)
class FakeApt:
    """A directory to put on PATH."""

    directory: Path

    @classmethod
    def install(cls, directory: Path) -> FakeApt:
        """Put the stand-ins and an archive into ``directory``."""
        fake = cls(directory)
        for program in PROGRAMS:
            launcher = directory / program
            launcher.parent.mkdir(parents=True, exist_ok=True)
            launcher.write_text(
                f'#!/bin/sh\nexec "{sys.executable}" -SE "{fake_apt_programs.__file__}" "$0" "$@"\n'
            )
            launcher.chmod(0o755)
        fake.add(META, {}, f"linux-image-0 | foo, {SIGNED} (= 6.9.9-1)")
        fake.add(f"{SIGNED}-unsigned", {"./boot/config-6.9.9": b"", "./boot/vmlinuz-6.9.9": KERNEL})
        fake.add("busybox-static", {"./usr/bin/busybox": b"busybox"})
        directory.joinpath("debian.list").write_text(
            "deb [arch=amd64] http://mirror.test/debian stable main\n"
        )
        return fake

    def add_split_kernel(self, version: str, member: str) -> None:
        """Make the newest kernel one of those whose linux-image is empty, as from Debian's 6.19 on.

        :param member: the path of the Image in the package that has it.
        """
        others = f"linux-base-{version}-cloud-arm64 (= 1), linux-modules-{version}-cloud-arm64 (= 1)"
        image, binary = (f"linux-{kind}-{version}-cloud-arm64" for kind in ("image", "binary"))
        self.add(META, {}, f"linux-base-cloud-arm64 (= 1), {image} (= 1), linux-modules-cloud-arm64 (= 1)")
        self.add(image, {}, f"dracut | initramfs-tools (>= 0.120), {others}, {binary} (= 1)")
        self.add(binary, {"./usr/share/bug/linux": b"", member: KERNEL}, f"{others}")

    def add(self, package: str, files: dict[str, bytes], depends: str = "") -> None:
        """Add a package to the archive."""
        folder = self.directory / "packages" / package
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / "deb", "w") as archive:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        folder.joinpath("depends").write_text(depends)

    def remove(self, *packages: str) -> None:
        """Take packages out of the archive."""
        for package in packages:
            self.directory.joinpath("packages", package).rename(self.directory / f"removed-{package}")

    def deb(self, package: str) -> Path:
        """Return a package's file in the archive."""
        return self.directory / "packages" / package / "deb"

    def fail(self, mode: str) -> None:
        """Have something go wrong from now on, see :func:`.fake_apt_programs.apt_get`."""
        self.directory.joinpath("mode").write_text(mode)

    def hold(self) -> Path:
        """Have every download wait until the file that is returned is removed."""
        held = self.directory / "held"
        held.touch()
        return held

    def calls(self, of: str) -> list[str]:
        """Return what was called whose line holds ``of``."""
        log = self.directory / "log"
        return [line for line in log.read_text().splitlines() if of in line] if log.exists() else []
