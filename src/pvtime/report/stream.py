# SPDX-License-Identifier: GPL-2.0-or-later
"""Samples and events of a machine that runs, as lines of JSON (docs/report.md)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final, Protocol

from pvtime.report.model import Moment

__all__ = ["STREAM_SCHEMA", "event_document", "header", "sample_document"]

STREAM_SCHEMA: Final = 1
"""Version of the lines; raised when a field changes its meaning or goes."""


class _Event(Protocol):
    """An event of a run."""

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""


def header(machine: dict[str, Any]) -> dict[str, Any]:
    """Return the first line of a stream.

    :param machine: what is known of the machine.
    """
    return {"schema": STREAM_SCHEMA, "machine": machine}


def sample_document(moment: Moment) -> dict[str, Any]:
    """Return a sample: every vCPU's figures, with the fields of a report's ``vcpus``."""
    return {
        "sample": {
            "elapsed_seconds": moment.elapsed_seconds,
            "vcpus": [asdict(row) for row in moment.vcpus],
        }
    }


def event_document(event: _Event) -> dict[str, Any]:
    """Return an event."""
    return {"event": event.document()}
