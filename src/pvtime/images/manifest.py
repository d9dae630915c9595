# SPDX-License-Identifier: GPL-2.0-or-later
"""The list of the guest images in the cache: ``images/manifest.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from pvtime.images.cache import atomic_file
from pvtime.records import dataclass

__all__ = ["STOCK", "Image", "folder", "read", "write"]

STOCK: Final = ("kernel", "busybox")
"""Names of the stock images."""

SCHEMA: Final = 1


@dataclass(frozen=True)
class Image:
    """A file in the cache, as it was when it was fetched. ``size`` is in bytes."""

    file: str
    package: str
    version: str
    size: int
    sha256: str


def folder(cache: Path) -> Path:
    """Return the directory of the manifest and of the files that it names."""
    return cache / "images"


def read(cache: Path) -> dict[str, Image]:
    """Return the images by the names of :data:`STOCK`; none where the manifest is missing or damaged."""
    try:
        document = json.loads(folder(cache).joinpath("manifest.json").read_bytes())
        if document["schema"] != SCHEMA:
            return {}
        return {name: _image(document["images"][name]) for name in STOCK}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _image(entry: Mapping[str, Any]) -> Image:
    image = Image(**entry)
    texts = (image.file, image.package, image.version, image.sha256)
    if not all(isinstance(text, str) for text in texts) or not isinstance(image.size, int):
        raise TypeError("not what write() wrote")
    if Path(image.file).name != image.file:
        raise ValueError("not a file of the cache")
    return image


def write(cache: Path, images: Mapping[str, Image]) -> None:
    """Replace the manifest.

    :raises OSError: it cannot be written; the old one is still in place.
    """
    document = {"schema": SCHEMA, "images": {name: asdict(image) for name, image in images.items()}}
    with atomic_file(folder(cache) / "manifest.json") as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n")
