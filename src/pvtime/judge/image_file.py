# SPDX-License-Identifier: GPL-2.0-or-later
"""The image that is judged with: its bytes, made by tools/build-judge from judge/image, and its options."""

from __future__ import annotations

import tempfile
from importlib import resources
from pathlib import Path
from typing import Final

from pvtime.machine.image import KernelImage, load_kernel

__all__ = ["OPTIONS_SIZE", "judge_image", "judge_kernel"]

OPTIONS_AT: Final = 64
"""Offset of the options in the image, behind its header."""
OPTIONS_SIZE: Final = 1024
"""The image's own limit: OPTIONS_SIZE in image/layout.h."""


def judge_image(options: str = "") -> bytes:
    """Return the image, in the kernel's Image format (Documentation/arch/arm64/booting.rst).

    :param options: written into it; those of the kernel's command line go before them.
    """
    image = bytearray((resources.files(__package__) / "image" / "judge.bin").read_bytes())
    text = options.encode("ascii")
    if len(text) >= OPTIONS_SIZE:
        raise ValueError(f"{len(text)} bytes of options")
    image[OPTIONS_AT : OPTIONS_AT + len(text)] = text
    return bytes(image)


def judge_kernel(options: str = "") -> KernelImage:
    """Return the image as a machine's kernel."""
    with tempfile.TemporaryDirectory(prefix="pvtime-judge-") as folder:
        path = Path(folder) / "judge.img"
        path.write_bytes(judge_image(options))
        return load_kernel(path)
