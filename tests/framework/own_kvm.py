# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's own KVM, for tests that are not about arm64's."""

from __future__ import annotations

import os
import platform

import pytest

__all__ = ["need_x86_kvm"]

DEVICE = "/dev/kvm"


def need_x86_kvm() -> None:
    """Skip the test where this host has no x86 KVM for its user."""
    if platform.machine() != "x86_64":
        pytest.skip(f"this host is {platform.machine()}: it has no x86 KVM")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        pytest.skip(f"{DEVICE} is missing, or closed to this user: x86's stolen time is not tested on KVM")
