# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that pass for a kernel and an initrd, and the program that runs them without a guest."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from pvtime.abi.image import IMAGE_MAGIC, ImageHeader

__all__ = ["PROGRAM", "Images", "make_images"]

PROGRAM = [sys.executable, str(Path(__file__).parents[1] / "fake_run.py"), "run"]


@dataclass(frozen=True)
class Images:
    """The files, as options."""

    folder: Path

    @property
    def options(self) -> list[str]:
        """Return them."""
        return ["--kernel", str(self.folder / "Image"), "--initrd", str(self.folder / "initrd")]


def make_images(folder: Path) -> Images:
    """Write the files."""
    header = ImageHeader(magic=IMAGE_MAGIC, image_size=1 << 20)
    (folder / "Image").write_bytes(bytes(header) + bytes(4096))
    (folder / "initrd").write_bytes(b"initrd")
    return Images(folder)
