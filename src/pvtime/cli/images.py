# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime images``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from pvtime.images.cache import cache_directory
from pvtime.images.store import ImageState, InstalledImage, installed, stock_images, verify
from pvtime.report import units
from pvtime.report.image_progress import image_progress
from pvtime.report.table import open_console

__all__ = ["images_command"]


@click.command("images", short_help="List or fetch the stock guest images")
@click.option("--fetch", is_flag=True, help="Fetch images that are missing or damaged.")
@click.option("--refresh", is_flag=True, help="Fetch the newest images, even if none is missing.")
@click.option("--verify", "check", is_flag=True, help="Compare SHA-256 sums, not sizes.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of a table.")
def images_command(fetch: bool, refresh: bool, check: bool, as_json: bool) -> int:
    """List the stock guest images: Debian's arm64 kernel and static busybox.

    They are kept in $PVTIME_CACHE, by default in the directory pvtime in $XDG_CACHE_HOME or ~/.cache. The
    exit code is 1 if an image is missing or damaged.

    \b
    Examples:
        pvtime images
        pvtime images --fetch
    """  # noqa: D301 (click wants the character)
    cache = cache_directory()
    if fetch or refresh:
        with image_progress(sys.stderr if as_json else sys.stdout) as progress:
            stock_images(cache, progress, refresh=refresh)
    images = verify(cache) if check else installed(cache)
    if as_json:
        result = {"schema": 1, "images": [_plain(image) for image in images]}
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        _print(images)
        if not all(image.path for image in images):
            print(f"pvtime images --fetch, or the first pvtime run, fetches them to {cache}.")
    return 0 if all(image.state is ImageState.PRESENT for image in images) else 1


def _plain(image: InstalledImage) -> dict[str, object]:
    """Return an image's fields for JSON; the size in bytes."""
    path = None if image.path is None else str(image.path)
    return asdict(image) | {"path": path, "state": image.state.value}


def _print(images: list[InstalledImage]) -> None:
    from rich import box
    from rich.table import Table  # late: see pvtime.report.table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading, justify in (("image", "left"), ("state", "left"), ("size", "right"), ("version", "left")):
        table.add_column(heading, justify="right" if justify == "right" else "left", no_wrap=True)
    table.add_column("path", overflow="fold")
    for image in images:
        size = units.size(image.size) if image.size else "-"
        table.add_row(image.name, image.state.value, size, image.version or "-", str(image.path or "-"))
    open_console(sys.stdout).print(table)
