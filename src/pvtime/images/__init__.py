# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock guest images: Debian's arm64 kernel and static busybox, fetched by apt into a cache.

:mod:`~pvtime.images.store` is what to call. On the way to a boot it only looks whether the files are there;
what fetches them is imported when they are not. Layout of the cache::

    images/    manifest.json and the files that it names
    archive/   apt's state: its configuration, sources, package lists, packages
    *.lock     held by the process that is fetching
"""
