# SPDX-License-Identifier: GPL-2.0-or-later
"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "Health"]


class Health(Enum):
    """What a finding means for stolen time."""

    GOOD = "good"
    BAD = "bad"
    """Stolen time cannot work with this."""
    NEUTRAL = "neutral"
    """Worth knowing; it decides nothing."""


@dataclass(frozen=True)
class Finding:
    """A thing's name, what it means, and a sentence."""

    name: str
    health: Health
    sentence: str
