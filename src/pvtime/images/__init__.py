# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock guest images: Debian's arm64 kernel and static busybox, fetched by apt into a cache.

:mod:`~pvtime.images.store` is the entry. Where the images are present it only checks them; the modules that
fetch are imported when something is missing. Layout of the cache::

    images/    manifest.json and the files that it names
    archive/   apt's state: its configuration, sources, package lists, packages
    *.lock     held by the process that is fetching
"""
