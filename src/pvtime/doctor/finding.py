# SPDX-License-Identifier: GPL-2.0-or-later
"""A result of the examination."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Health", "HealthFinding", "bad", "good", "neutral"]


class Health(Enum):
    """Meaning of a finding for stolen time."""

    GOOD = "good"
    BAD = "bad"
    """Stolen time cannot work with this."""
    NEUTRAL = "neutral"
    """Information without a verdict."""


@dataclass(frozen=True)
class HealthFinding:
    """The examined thing, its health, and a sentence for a person."""

    name: str
    health: Health
    sentence: str


def good(name: str, sentence: str) -> HealthFinding:
    """Return a good finding."""
    return HealthFinding(name, Health.GOOD, sentence)


def bad(name: str, sentence: str) -> HealthFinding:
    """Return a bad finding."""
    return HealthFinding(name, Health.BAD, sentence)


def neutral(name: str, sentence: str) -> HealthFinding:
    """Return a neutral finding."""
    return HealthFinding(name, Health.NEUTRAL, sentence)
