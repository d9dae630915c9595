# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host asks of the lab's agent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Self

__all__ = ["Order"]


@dataclass(frozen=True)
class Order:
    """A command to run, as the payload of RUN."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    """Added to the agent's environment."""
    out: list[str] = field(default_factory=list)
    """Files to send back when the command has ended."""
    terminal: tuple[int, int] | None = None
    """Columns and lines of a terminal to run it on; None for pipes."""

    def encode(self) -> bytes:
        """Return the payload."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read the payload."""
        fields = json.loads(payload)
        terminal = fields.pop("terminal")
        return cls(**fields, terminal=tuple(terminal) if terminal else None)
