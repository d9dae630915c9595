# SPDX-License-Identifier: GPL-2.0-or-later
"""Engines, which execute vCPUs: ``unicorn`` (emulated, anywhere) or ``kvm`` (an arm64 host's /dev/kvm)."""
