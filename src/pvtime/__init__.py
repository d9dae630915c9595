# SPDX-License-Identifier: GPL-2.0-or-later
"""pvtime: a virtual machine monitor for arm64 Linux with stolen time (Arm DEN0057A) at its centre."""

__all__ = ["__version__"]

__version__ = "0.1.0"
