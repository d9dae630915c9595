# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab: an emulated arm64 KVM host in a box, with this very pvtime in it."""
