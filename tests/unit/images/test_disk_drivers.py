# SPDX-License-Identifier: GPL-2.0-or-later
"""Drivers are loaded behind those that they need."""

from __future__ import annotations

from pvtime.images.disk_drivers import load_order


def module(needs: str) -> bytes:
    """Return a module with a section .modinfo."""
    return b"\x7fELF\0license=GPL\0depends=" + needs.encode() + b"\0name=x\0"


def test_each_module_comes_behind_those_that_it_needs() -> None:
    modules = {
        "virtio_blk": module("virtio-ring,virtio"),
        "virtio_mmio": module("virtio_ring"),
        "virtio": module(""),
        "virtio_ring": module("virtio"),
        "overlay": module("built_in"),
        "squashfs": b"\x7fELF without a word of what it needs",
    }
    order = load_order(modules)
    assert order == ["virtio", "virtio_ring", "virtio_mmio", "virtio_blk", "squashfs", "overlay"]


def test_modules_that_need_each_other_end() -> None:
    modules = {"squashfs": module("overlay"), "overlay": module("squashfs")}
    assert load_order(modules) == ["overlay", "squashfs"]
