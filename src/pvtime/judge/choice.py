# SPDX-License-Identifier: GPL-2.0-or-later
"""The choice of the checks that are made."""

from __future__ import annotations

from typing import Final

from pvtime.errors import UsageError
from pvtime.judge.growth import NAME as GROWTH

__all__ = ["GROWTH_NEEDS", "IMAGE_CHECKS", "image_choice", "parse_choice"]

IMAGE_CHECKS: Final = (
    "cpus_start",
    "smccc_version",
    "discovery_agrees",
    "announced",
    "every_cpu_agrees",
    "unknown_call_refused",
    "ids_of_32_bits_refused",
    "no_live_physical_time",
    "every_cpu_has_structure",
    "addresses",
    "normal_memory",
    "header",
    "padding",
    "bounded_by_time",
    "starts_again",
    "never_falls",
    "padding_under_load",
    "off_and_on_under_load",
    "idle_is_not_stolen",
    "bounded_under_load",
    "off_and_on",
    "padding_at_the_end",
    "header_at_the_end",
)
"""The image's own, in its order: ``checks`` in image/checks.c."""

GROWTH_NEEDS: Final = ("never_falls", "idle_is_not_stolen")
"""The image prints the counts that the host compares before the one and behind the other."""


def parse_choice(text: str) -> frozenset[str]:
    """Return the names in a list with commas.

    :raises UsageError: there is no such check.
    """
    known = (*IMAGE_CHECKS, GROWTH)
    chosen = text.split(",")
    for name in chosen:
        if name not in known:
            raise UsageError(f"{name!r} is no check that can be chosen; these are: {', '.join(known)}")
    return frozenset(chosen)


def image_choice(chosen: frozenset[str]) -> str:
    """Return the option by which the image makes these checks; nothing for all."""
    needed = {*chosen, *(GROWTH_NEEDS if GROWTH in chosen else ())}
    words = ",".join(name for name in IMAGE_CHECKS if name in needed)
    return f"checks={words}" if chosen else ""
