# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests boot: payloads of a few instructions, and the stock guest."""
