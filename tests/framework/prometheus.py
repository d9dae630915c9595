# SPDX-License-Identifier: GPL-2.0-or-later
"""Prometheus' programs."""

from __future__ import annotations

import os
import shutil

import pytest

from pvtime.images.cache import cache_directory

__all__ = ["prometheus_programs"]


def prometheus_programs() -> dict[str, str]:
    """Return the paths of Prometheus' programs: the host's, or those of tools/fetch-prometheus."""
    places = os.pathsep.join([os.environ.get("PATH", ""), str(cache_directory() / "prometheus/usr/bin")])
    found = {name: shutil.which(name, path=places) for name in ("prometheus", "promtool")}
    if None in found.values():
        pytest.skip("prometheus is not there (make test fetches it: tools/fetch-prometheus)")
    return {name: str(path) for name, path in found.items()}
