# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration of our apt.

From the system come the sources, the keys, the passwords of mirrors, and the network settings (``Acquire``:
proxies, timeouts). Its hooks, pins and package state do not count.

Of the system's sources (sources.list(5), both formats) Debian's own are taken, with their mirrors and keys.
The others are left out: they seldom have arm64, and a failure of theirs must not hold us up. A restriction to
architectures is dropped. Where no entry looks like Debian's, all are taken. python-debian's deb822 could read
one of the two formats, for 45 ms of import.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pvtime.errors import ImagesError
from pvtime.images.cache import ELSEWHERE, cache_errors

__all__ = ["NO_APT", "AptSource", "choose_sources", "configure", "error_reason", "read_sources"]

NO_APT: Final = f"apt, which fetches guest images, is not on this machine: {ELSEWHERE}"

CONFIG: Final = """\
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Update::Error-Mode "any";
Dir::State "{root}";
Dir::State::lists "{root}/lists";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Cache::srcpkgcache "";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{root}/sources.list.d";
"""

LAST: Final = """\
Acquire::GzipIndexes "true";
#clear Acquire::Languages;
Acquire::Languages "none";
Acquire::AllowInsecureRepositories "0";
Acquire::AllowWeakRepositories "0";
Acquire::AllowDowngradeToInsecureRepositories "0";
"""
"""Follows the system's own settings: package lists as small as possible, and no way round the signatures."""

KEYRING: Final = "debian-archive-"
"""Prefix of the files with Debian's keys, in any directory."""

ARCHIVE: Final = re.compile(r"(^|/)debian(-security)?(\.list|/|$)")
"""End of the paths of Debian's mirrors, and of the lists of mirrors in its cloud images."""

ONE_LINE: Final = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)]\s*)?(?P<uri>\S+)\s+\S.*")


def configure(root: Path, architecture: str) -> None:
    """Write configuration and sources into ``root``, from the system's present ones.

    :raises ImagesError: there is no apt, it has no sources, or they cannot be written.
    """
    acquire = _system("dump", "Acquire").splitlines()
    # Index targets are the extra files that desktop programs have apt fetch: icons, contents.
    network = [line for line in acquire if not line.startswith("Acquire::IndexTargets")]
    with cache_errors(root):
        for directory in ("lists/partial", "cache/archives/partial", "sources.list.d", "packages"):
            root.joinpath(directory).mkdir(parents=True, exist_ok=True)
        root.joinpath("status").touch()
        # As root, apt would download as another user, who cannot write here.
        sandbox = ['APT::Sandbox::User "root";'] if os.geteuid() == 0 else []
        text = CONFIG.format(root=_quoted(root), architecture=architecture) + "\n".join(
            [*sandbox, *network, LAST]
        )
        root.joinpath("apt.conf").write_text(text)
        _write_sources(root / "sources.list.d")


def _write_sources(directory: Path) -> None:
    etc = _system("shell", "FILE", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d")
    places = dict(word.split("=", 1) for word in shlex.split(etc))
    file, parts = Path(places.get("FILE", "")), Path(places.get("PARTS", ""))
    files = [path for path in [file, *sorted(parts.glob("*"))] if path.is_file()]
    chosen = choose_sources(source for path in files for source in read_sources(path))
    if not chosen:
        raise ImagesError(f"apt has no sources in {file} or {parts}: add Debian's there")
    for suffix in (".list", ".sources"):
        text = "".join(source.text for source in chosen if source.suffix == suffix)
        directory.joinpath("system" + suffix).write_text(text, errors="surrogateescape")


def _system(*arguments: str) -> str:
    """Run apt-config on the system's own configuration and return its output."""
    environment = {name: value for name, value in os.environ.items() if name != "APT_CONFIG"}
    command = ["apt-config", *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise ImagesError(NO_APT) from error
    except subprocess.CalledProcessError as error:
        raise ImagesError(
            f"apt-config failed: {error_reason(error.stderr)}: mend the system's apt, or {ELSEWHERE}"
        ) from error
    return done.stdout


def error_reason(stderr: str) -> str:
    """Return the first error in apt's output; the ones after it are its consequences."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("E:").strip() for line in lines if line.startswith("E:")]
    return (errors or lines or ["it did not say why"])[0]


def _quoted(path: Path) -> str:
    """Return ``path`` for a configuration file of apt, which has no way to write these characters.

    :raises ImagesError: the path holds one.
    """
    if set(str(path)) & set('"\n'):
        raise ImagesError(f"{path!r}: apt cannot work in a directory so named: set PVTIME_CACHE to another")
    return str(path)


@dataclass(frozen=True)
class AptSource:
    """An entry of the system's sources; ``text`` is its form for our apt, in a file with ``suffix``."""

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


def choose_sources(sources: Iterable[AptSource]) -> list[AptSource]:
    """Return Debian's own, or all if none is. A CD is never asked: it would have to be put in."""
    fetchable = [source for source in sources if not any(uri.startswith("cdrom:") for uri in source.uris)]
    return [source for source in fetchable if source.is_debian] or fetchable


def read_sources(path: Path) -> list[AptSource]:
    """Return a file's entries for binary packages; none where it is neither ``.list`` nor ``.sources``.

    :raises OSError: it cannot be read.
    """
    readers = {".list": _one_line, ".sources": _deb822}
    reader = readers.get(path.suffix)
    return list(reader(path.read_text(errors="surrogateescape"))) if reader else []


def _one_line(text: str) -> Iterator[AptSource]:
    for line in text.splitlines():
        match = ONE_LINE.fullmatch(line.split("#", 1)[0].strip())
        if match is None:
            continue
        options = [option for option in (match["options"] or "").split() if not option.startswith("arch")]
        keys = [option.partition("=")[2] for option in options if option.startswith("signed-by")]
        rest = line[line.index(match["uri"]) :]
        written = f"deb [{' '.join(options)}] {rest}\n" if options else f"deb {rest}\n"
        yield AptSource(written, ".list", (match["uri"],), " ".join(keys))


def _deb822(text: str) -> Iterator[AptSource]:
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
        yield AptSource(written, ".sources", tuple(value.get("uris", "").split()), value.get("signed-by", ""))
