# SPDX-License-Identifier: GPL-2.0-or-later
"""Run as a program, this file *is* apt-get, apt-cache, apt-config or dpkg-deb, by the name it is called by.

A fetch starts a dozen of them, so it imports next to nothing: pathlib, dataclasses and hashlib are four
fifths of such a program's time.
"""

from __future__ import annotations

import os
import sys
import time

__all__: list[str] = []


def read(*path: str) -> str:
    """Return a file's text, or nothing where there is none."""
    try:
        with open(os.path.join(*path)) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def note(home: str, line: str) -> None:
    """Add a line to the log."""
    with open(f"{home}/log", "a") as log:
        log.write(f"{line}\n")


def apt_config(home: str, words: list[str]) -> None:
    """Answer ``dump`` and ``shell``."""
    if words[0] == "dump":
        print('Acquire::http::Proxy "http://proxy.test:3128";\nAcquire::IndexTargets::deb::Icons "";')
    else:
        print(f"FILE='{home}/debian.list'\nPARTS='{home}/none'")


def apt_cache(home: str, words: list[str]) -> None:
    """Answer ``show`` and ``depends --recurse``."""
    if read(home, "mode") == "preferences":
        sys.exit("E: Invalid record in the preferences file /etc/apt/preferences, no Package header")
    if "depends" in words:
        for package in sorted(os.listdir(f"{home}/packages")):
            print(package)
            for need in filter(None, read(home, "packages", package, "depends").split(", ")):
                *others, last = [word.split()[0] for word in need.split(" | ")]
                for other in others:
                    print(f" |Depends: {other}")
                print(f"  Depends: {last}\n    provider-of-{last}")
        return
    if not os.path.exists(f"{home}/packages/{words[-1]}"):
        sys.exit("E: No packages found")
    print(f"Package: {words[-1]}\nVersion: 1:2\nDepends: {read(home, 'packages', words[-1], 'depends')}\n")


def apt_get(home: str, words: list[str], mode: str) -> None:
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
        deb = f"{home}/packages/{package}/deb"
        if mode == "offline" or not os.path.exists(deb):
            sys.exit(f"E: Unable to locate package {package}")
        with open(deb, "rb") as file:
            data = file.read()
        name = f"{package}_1%3a2_arm64.deb"
        if "--print-uris" in words:
            import hashlib

            print(
                f"'http://mirror.test/{package}' {name} {len(data)} SHA256:{hashlib.sha256(data).hexdigest()}"
            )
            continue
        os.write(status, f"dlstatus:1:{100 * done / len(packages):.4f}:Retrieving file\n".encode())
        transfer(home, name, data, mode)


def transfer(home: str, name: str, data: bytes, mode: str) -> None:
    """Write a package to the current directory, as apt does: what is there in part is gone on with."""
    if mode == "hash":
        sys.exit("E: Failed to fetch http://mirror.test/x  Hash Sum mismatch")
    if mode == "room":
        sys.exit("E: Write error - write (28: No space left on device)")
    while os.path.exists(f"{home}/held"):
        time.sleep(0.01)
    at = os.path.getsize(name) if os.path.exists(name) else 0
    end = at + (len(data) - at) // 2 if mode == "cut" else len(data)
    with open(name, "ab") as out:
        out.write(data[at:end])
    note(home, f"transfer {name} {at}..{end}")
    if mode == "cut":
        sys.exit("E: Failed to fetch http://mirror.test/x  Connection reset by peer")


def main() -> None:
    """Be the program that this was called as."""
    (home, program), words = os.path.split(sys.argv[1]), sys.argv[2:]
    note(home, f"{program} {' '.join(words)}")
    if program == "apt-config":
        apt_config(home, words)
    elif program == "apt-cache":
        apt_cache(home, words[2:])
    elif program == "apt-get":
        apt_get(home, words, read(home, "mode"))
    elif words[0] == "-x":
        import tarfile

        with tarfile.open(words[1]) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on
            archive.extractall(words[2])
    else:
        with open(words[1], "rb") as file:
            data = file.read()
        sys.stdout.buffer.write(data)
        sys.exit(2 if len(data) % 512 else 0)


if __name__ == "__main__":
    main()
