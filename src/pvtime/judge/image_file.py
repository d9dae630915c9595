# SPDX-License-Identifier: GPL-2.0-or-later
"""The image that is judged with: its bytes, which tools/build-guests makes from judge/image."""

from __future__ import annotations

from importlib import resources

from pvtime.machine.image import KernelImage, load_kernel

__all__ = ["judge_image", "judge_kernel"]


def judge_image() -> bytes:
    """Return the image, in the kernel's Image format (Documentation/arch/arm64/booting.rst)."""
    return (resources.files(__package__) / "image" / "judge.bin").read_bytes()


def judge_kernel() -> KernelImage:
    """Return the image as a machine's kernel."""
    with resources.as_file(resources.files(__package__) / "image" / "judge.bin") as path:
        return load_kernel(path)
