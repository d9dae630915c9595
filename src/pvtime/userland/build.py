# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the stock userland's initramfs from a static arm64 busybox.

It is not compressed: the guest's CPU is emulated and would pay for that. It is not cached either: to build it
takes a few milliseconds, no more than to hash the busybox that a cached one would be found by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pvtime.errors import GuestImageError
from pvtime.userland import cpio

__all__ = ["KERNEL_PARAMETERS", "SCRIPTS", "build_initramfs"]

HERE: Final = Path(__file__).parent
INIT: Final = HERE / "init"
STEAL: Final = HERE / "steal"
SCRIPTS: Final = (INIT, STEAL)
"""The userland's own scripts, beside busybox."""
DIRECTORIES: Final = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp")

KERNEL_PARAMETERS: Final = "cryptomgr.notests"
"""Words for the stock kernel's command line: without the tests of its own cryptography (crypto/algboss.c) a
boot takes a fifth less of the host's CPU time."""


def build_initramfs(busybox: bytes | Path) -> bytes:
    """Return the initramfs, a cpio archive. The same busybox gives the same bytes.

    :param busybox: the program, or where it is.
    :raises GuestImageError: it cannot be read, or is not an arm64 ELF file.
    """
    program = _read(busybox) if isinstance(busybox, Path) else busybox
    if not _is_arm64_elf(program):
        name = busybox if isinstance(busybox, Path) else "busybox"
        raise GuestImageError(f"{name}: not an arm64 program: give Debian's busybox-static of arm64")
    return cpio.archive(
        [
            *(cpio.directory(name) for name in DIRECTORIES),
            # The kernel opens the console before init mounts a /dev with one in it.
            cpio.char_device("dev/console", 5, 1),
            cpio.regular("bin/busybox", program, 0o755),
            cpio.symlink("bin/sh", "busybox"),
            cpio.regular("bin/steal", STEAL.read_bytes(), 0o755),
            cpio.fifo("run/requests"),
            cpio.regular("init", INIT.read_bytes(), 0o755),
        ]
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GuestImageError(f"{path}: cannot read busybox: {error.strerror}") from error


def _is_arm64_elf(program: bytes) -> bool:
    elf64_little = program[:6] == b"\x7fELF\x02\x01"
    em_aarch64 = program[18:20] == (183).to_bytes(2, "little")
    return elf64_little and em_aarch64
