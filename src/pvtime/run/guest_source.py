# SPDX-License-Identifier: GPL-2.0-or-later
"""The source of a guest's machine: its kernel, or a guest that is kept at its userland."""

from __future__ import annotations

from pvtime.run.options import GuestOptions
from pvtime.run.source import FromKernel, MachineSource

__all__ = ["source_of"]


def source_of(guest: GuestOptions, *, warm: bool) -> MachineSource:
    """Return the source of a guest that boots, or, if warm, that begins at its userland."""
    if not warm:
        return FromKernel(guest)
    from pvtime.run.warm import FromWarm  # a boot does not need it

    return FromWarm(guest)
