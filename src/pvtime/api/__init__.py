# SPDX-License-Identifier: GPL-2.0-or-later
"""The public API (docs/api.md), whose names are those of the package ``pvtime``."""
