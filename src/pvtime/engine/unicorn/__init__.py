# SPDX-License-Identifier: GPL-2.0-or-later
"""The embedded engine: all vCPUs of a machine, in turn, on one emulated CPU and one thread.

That is an overcommitted host with one CPU, so the stolen time of its guests is real.
"""
