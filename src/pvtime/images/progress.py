# SPDX-License-Identifier: GPL-2.0-or-later
"""How a fetch says how far it is."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "silent"]


class Progress(Protocol):
    """Called often, from the fetching thread, with what is being done."""

    def __call__(self, description: str, completed_bytes: int, total_bytes: int | None) -> None:
        """``completed_bytes`` of ``total_bytes`` are done; the total is None where nobody can tell."""


def silent(description: str, completed_bytes: int, total_bytes: int | None) -> None:
    """Show nothing."""
