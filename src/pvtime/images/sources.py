# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the system's apt sources to ask for arm64 packages.

Debian's own, taken from the system's configuration (sources.list(5), both formats) with their mirrors and
their keys. The others are left out: they seldom have arm64, and what fails there must not hold us up. A
restriction to architectures is dropped. Where no entry looks like Debian's, all are asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Source", "choose", "parse"]

KEYRING: Final = "debian-archive-"
"""Debian's keys are in files that begin so, whichever directory they are in."""

ARCHIVE: Final = re.compile(r"(^|/)debian(-security)?(\.list|/|$)")
"""How the paths of Debian's mirrors end; also of the lists of mirrors that its cloud images have."""

ONE_LINE: Final = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)]\s*)?(?P<uri>\S+)\s+\S.*")


@dataclass(frozen=True)
class Source:
    """One entry of the system's sources; ``text`` is what to write for it in a file with ``suffix``."""

    text: str
    suffix: str
    uris: tuple[str, ...]
    signed_by: str

    @property
    def is_debian(self) -> bool:
        """Whether the entry looks like Debian's own: by its key, or by its path where it names no key."""
        if self.signed_by:
            return KEYRING in self.signed_by
        return any(ARCHIVE.search(uri) for uri in self.uris)


def choose(sources: Iterable[Source]) -> list[Source]:
    """Return Debian's own, or all if none is. A CD is never asked: it would have to be put in."""
    fetchable = [source for source in sources if not any(uri.startswith("cdrom:") for uri in source.uris)]
    return [source for source in fetchable if source.is_debian] or fetchable


def parse(path: Path) -> list[Source]:
    """Return a file's entries for binary packages; none where it is neither ``.list`` nor ``.sources``.

    :raises OSError: it cannot be read.
    """
    readers = {".list": _one_line, ".sources": _deb822}
    reader = readers.get(path.suffix)
    return list(reader(path.read_text(errors="surrogateescape"))) if reader else []


def _one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        match = ONE_LINE.fullmatch(line.split("#", 1)[0].strip())
        if match is None:
            continue
        options = [option for option in (match["options"] or "").split() if not option.startswith("arch")]
        keys = [option.partition("=")[2] for option in options if option.startswith("signed-by")]
        rest = line[line.index(match["uri"]) :]
        written = f"deb [{' '.join(options)}] {rest}\n" if options else f"deb {rest}\n"
        yield Source(written, ".list", (match["uri"],), " ".join(keys))


def _deb822(text: str) -> Iterator[Source]:
    uncommented = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", uncommented):
        # A line that begins with a blank continues the field above it.
        fields = {
            name.lower(): field
            for field in re.split(r"\n(?![ \t])", stanza.strip("\n"))
            for name in [field.partition(":")[0].strip()]
        }
        value = {name: field.partition(":")[2].strip() for name, field in fields.items()}
        if "deb" not in value.get("types", "").split() or value.get("enabled", "yes").lower() == "no":
            continue
        kept = [field for name, field in fields.items() if not name.startswith(("architectures", "types"))]
        written = "\n".join(["Types: deb", *kept]) + "\n\n"
        yield Source(written, ".sources", tuple(value.get("uris", "").split()), value.get("signed-by", ""))
