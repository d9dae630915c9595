# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock userland: an initramfs of busybox and two scripts, with an agent that reports /proc/stat."""
