# SPDX-License-Identifier: GPL-2.0-or-later
"""Stand-ins for apt and dpkg-deb on PATH, and an archive with the packages of a Debian release for them.

Run as a program, this file *is* apt-get, apt-cache, apt-config or dpkg-deb, by the name it is called by. The
directory that it is called from holds the archive in ``packages``, what was called in ``log``, and what
shall go wrong in ``mode``. A package is a plain tar file; the stand-in for dpkg-deb has nothing to unpack.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

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
            launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -SE "{__file__}" "$0" "$@"\n')
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
        import io
        import tarfile

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
        """Have something go wrong from now on, see :func:`apt_get`."""
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


def apt_config(home: Path, words: list[str]) -> None:
    """Answer ``dump`` and ``shell``."""
    if words[0] == "dump":
        print('Acquire::http::Proxy "http://proxy.test:3128";\nAcquire::IndexTargets::deb::Icons "";')
    else:
        print(f"FILE='{home}/debian.list'\nPARTS='{home}/none'")


def apt_cache(home: Path, words: list[str]) -> None:
    """Answer ``show`` and ``depends --recurse``."""
    if home.joinpath("mode").exists() and home.joinpath("mode").read_text() == "preferences":
        sys.exit("E: Invalid record in the preferences file /etc/apt/preferences, no Package header")
    if "depends" in words:
        for package in sorted(home.joinpath("packages").iterdir()):
            print(package.name)
            for need in filter(None, package.joinpath("depends").read_text().split(", ")):
                *others, last = [word.split()[0] for word in need.split(" | ")]
                for other in others:
                    print(f" |Depends: {other}")
                print(f"  Depends: {last}\n    provider-of-{last}")
        return
    folder = home / "packages" / words[-1]
    if not folder.exists():
        sys.exit("E: No packages found")
    print(f"Package: {words[-1]}\nVersion: 1:2\nDepends: {folder.joinpath('depends').read_text()}\n")


def apt_get(home: Path, words: list[str], mode: str) -> None:
    """Update, locate or download; ``mode`` says what goes wrong."""
    status = int(words[1].removeprefix("APT::Status-Fd="))
    if words[2] == "update":
        if mode in ("offline", "third-party"):
            sys.exit(
                "W: first a warning\nE: Failed to fetch the index: Could not resolve 'mirror.test'\nE: more"
            )
        return
    if mode == "preferences" and words[2] == "download":
        sys.exit("E: Invalid record in the preferences file /etc/apt/preferences, no Package header")
    packages = [word for word in words[3:] if not word.startswith("-")]
    for done, package in enumerate(packages):
        deb = home / "packages" / package / "deb"
        if mode == "offline" or not deb.exists():
            sys.exit(f"E: Unable to locate package {package}")
        data, name = deb.read_bytes(), f"{package}_1%3a2_arm64.deb"
        if "--print-uris" in words:
            print(
                f"'http://mirror.test/{package}' {name} {len(data)} SHA256:{hashlib.sha256(data).hexdigest()}"
            )
            continue
        os.write(status, f"dlstatus:1:{100 * done / len(packages):.4f}:Retrieving file\n".encode())
        transfer(home, Path(name), data, mode)


def transfer(home: Path, file: Path, data: bytes, mode: str) -> None:
    """Write a package to the current directory, as apt does: what is there in part is gone on with."""
    if mode == "hash":
        sys.exit("E: Failed to fetch http://mirror.test/x  Hash Sum mismatch")
    if mode == "room":
        sys.exit("E: Write error - write (28: No space left on device)")
    while home.joinpath("held").exists():
        time.sleep(0.01)
    at = file.stat().st_size if file.exists() else 0
    end = at + (len(data) - at) // 2 if mode == "cut" else len(data)
    with file.open("ab") as out:
        out.write(data[at:end])
    with home.joinpath("log").open("a") as log:
        log.write(f"transfer {file.name} {at}..{end}\n")
    if mode == "cut":
        sys.exit("E: Failed to fetch http://mirror.test/x  Connection reset by peer")


def main() -> None:
    """Be the program that this was called as."""
    program, words = Path(sys.argv[1]), sys.argv[2:]
    home = program.parent
    mode = home.joinpath("mode").read_text() if home.joinpath("mode").exists() else ""
    with home.joinpath("log").open("a") as log:
        log.write(f"{program.name} {' '.join(words)}\n")
    if program.name == "apt-config":
        apt_config(home, words)
    elif program.name == "apt-cache":
        apt_cache(home, words[2:])
    elif program.name == "apt-get":
        apt_get(home, words, mode)
    elif words[0] == "-x":
        import tarfile

        with tarfile.open(words[1]) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on
            archive.extractall(words[2])
    else:
        data = Path(words[1]).read_bytes()
        sys.stdout.buffer.write(data)
        sys.exit(2 if len(data) % 512 else 0)


if __name__ == "__main__":
    main()
