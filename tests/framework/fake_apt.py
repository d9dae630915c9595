# SPDX-License-Identifier: GPL-2.0-or-later
"""Stand-ins for apt and dpkg-deb on PATH, and an archive with the packages of a Debian release for them.

Their directory holds the archive in ``packages``, what was called in ``log``, and what shall go wrong
in ``mode``. A package is a plain tar file; the stand-in for dpkg-deb has nothing to unpack.
"""

from __future__ import annotations

import io
import shlex
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


LAUNCHER = r"""#!/bin/sh
# What is asked most often is answered here: a fetch starts ten of these, and a Python takes 10 ms of a CPU.
home=${0%/*} program=${0##*/} mode=
printf '%s\n' "$program $*" >> "$home/log"
[ ! -f "$home/mode" ] || read -r mode < "$home/mode" || :
fail() { echo "$1" >&2; exit 1; }
case "$program $1 $3 $mode" in
    "apt-config dump"*)
        printf 'Acquire::http::Proxy "http://proxy.test:3128";\nAcquire::IndexTargets::deb::Icons "";\n' ;;
    "apt-config shell"*)
        printf "FILE='%s'\nPARTS='%s'\n" "$home/debian.list" "$home/none" ;;
    "apt-get -o update offline" | "apt-get -o update third-party")
        fail "W: first a warning
E: Failed to fetch the index: Could not resolve 'mirror.test'
E: more" ;;
    "apt-get -o update"*) ;;
    "apt-get -o download preferences" | apt-cache*preferences)
        fail "E: Invalid record in the preferences file /etc/apt/preferences, no Package header" ;;
    "apt-cache -o show"*)
        for package; do :; done
        [ -d "$home/packages/$package" ] || fail "E: No packages found"
        read -r depends < "$home/packages/$package/depends" || :
        printf 'Package: %s\nVersion: 1:2\nDepends: %s\n\n' "$package" "$depends" ;;
    "dpkg-deb --fsys-tarfile"*)
        /bin/cat "$2" || exit
        [ $(($(/usr/bin/wc -c < "$2") % 512)) = 0 ] || exit 2 ;;
    *) exec PYTHON -SE SOURCE "$home" "$program" "$mode" "$@" ;;
esac
"""
"""The stand-in; :mod:`framework.fake_apt_programs` is its other half."""


@dataclass(frozen=True)
class FakeApt:
    """A directory to put on PATH."""

    directory: Path

    @classmethod
    def install(cls, directory: Path) -> FakeApt:
        """Put the stand-ins and an archive into ``directory``."""
        fake = cls(directory)
        directory.mkdir(parents=True, exist_ok=True)
        python, source = (shlex.quote(name) for name in (sys.executable, fake_apt_programs.__file__))
        for program in PROGRAMS:
            launcher = directory / program
            launcher.write_text(LAUNCHER.replace("PYTHON", python).replace("SOURCE", source))
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
