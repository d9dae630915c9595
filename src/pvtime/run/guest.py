# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kernel, initrd and command line a run boots: the user's, or the stock ones."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pvtime.errors import UsageError
from pvtime.machine.image import KernelImage, load_initrd, load_kernel

__all__ = ["Guest", "Wishes", "choose", "words"]

SAFE_TERM = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,40}")
"""Values of TERM that can be one word of a kernel's command line."""


@dataclass(frozen=True)
class Guest:
    """What boots. ``agent``: it is the stock userland, which reports on the second serial port."""

    kernel: KernelImage
    initrd: bytes
    append: str
    agent: bool


@dataclass(frozen=True)
class Wishes:
    """What the command line says about the guest."""

    kernel: Path | None
    initrd: Path | None
    append: str
    vcpus: int
    busy: int | None
    """How many vCPUs the stock userland keeps busy; None: all, or none of an interactive guest's."""
    interactive: bool


def choose(wishes: Wishes, screen: os.terminal_size, term: str, output: TextIO | None) -> Guest:
    """Read what ``wishes`` name, and fetch what they leave to us.

    ``screen`` and ``term`` are those of the terminal, see :func:`words`; ``output`` is where to show a fetch.

    :raises UsageError: an image is none, or the stock ones cannot be had.
    """
    append = wishes.append if wishes.initrd else words(wishes, screen, term)
    # What the user gave is looked at before anything is fetched for it.
    kernel = load_kernel(wishes.kernel) if wishes.kernel else None
    initrd = load_initrd(wishes.initrd) if wishes.initrd else None
    if kernel is None or initrd is None:
        from pvtime.report.progress import stock
        from pvtime.userland.build import build_initramfs

        images = stock(output)
        kernel = kernel or load_kernel(images.kernel)
        initrd = initrd or build_initramfs(images.busybox)
    return Guest(kernel, initrd, append, agent=wishes.initrd is None)


def words(wishes: Wishes, screen: os.terminal_size, term: str) -> str:
    """Return the words for the stock userland, and the user's behind them.

    ``screen`` and ``term`` are the terminal's size, (0, 0) if unknown, and its value of TERM.

    :raises UsageError: more vCPUs shall be busy than there are.
    """
    busy = wishes.busy
    if busy is None:
        busy = 0 if wishes.interactive else wishes.vcpus
    if busy > wishes.vcpus:
        raise UsageError(f"--busy {busy} is more than --vcpus {wishes.vcpus}: give {wishes.vcpus} or less")
    stock = [f"pvtime.busy={busy}"]
    if wishes.interactive:
        stock.append("pvtime.shell")
        columns, rows = screen
        if rows and columns:
            stock += [f"pvtime.rows={rows}", f"pvtime.cols={columns}"]
        if SAFE_TERM.fullmatch(term):
            stock.append(f"pvtime.term={term}")
    return " ".join(filter(None, [*stock, wishes.append]))
