# SPDX-License-Identifier: GPL-2.0-or-later
"""Is stolen time right in a VMM? An image that any arm64 VMM boots, and the host's side of its checks."""
