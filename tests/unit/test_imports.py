# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules of the tree: which imports there may be, and that a class name means one thing.

Packages import only downwards, modules not in circles, and nobody takes another package's private names.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pvtime
from framework.imports import Import, classes_of, imports_of
from pvtime import _HOMES as API_HOMES

ROOT = Path(__file__).parents[2] / "src"

LAYERS = (
    ("cli",),
    ("experiment",),
    ("cost", "judge", "scenario", "watch"),
    ("api", "lab", "doctor"),
    ("run",),
    ("report", "snapshot"),
    ("probe",),
    ("engine",),
    ("inject",),
    ("machine",),
    ("steal",),
    ("host",),
    ("abi",),
)
"""From the top: each package may import those of the layers below its own."""

BESIDE = {
    "userland": {"abi"},  # what runs in the stock guest, and the protocol that it speaks
    "images": {"abi", "userland"},  # the stock guest's files
    "kmod": {"abi", "images", "userland"},  # the lab's kernel module, compiled for the stock kernel
}
"""Packages that every layer from report upwards may import, and what they may import."""

ENTRY = "__main__"
"""The program's entry point: a module above all packages, which imports of packages cli alone."""

USES_BESIDE = {"cli", "scenario", "cost", "lab", "doctor", "run", "report"}

FREE = {"errors", "files", "numerals", "records", "schema", "seal", "streams", "__init__"}
"""Modules that every package may import; they import nothing else of pvtime."""

PUBLIC = {"api", "run"}
"""Packages that have the names of the public API, which pvtime itself imports for types, and at their use."""

BACKWARDS: dict[tuple[str, str], str] = {
    ("pvtime", "pvtime.api.guest"): "a saved machine has the version of pvtime, which is there",
}
"""Imports that would close a circle, as (importing module, imported module), each with the reason to have it.
Only an import for types alone can have one."""

SHARED_NAMES: dict[str, str] = {}
"""Names that more than one class has, each with the reason."""


def allowed(package: str) -> set[str]:
    """Return what the modules of ``package`` may import, itself included."""
    if package in FREE:
        return {package, "errors", "records", *(PUBLIC if package == "__init__" else ())}
    if package in BESIDE:
        return {package, *BESIDE[package], *FREE}
    if package == ENTRY:
        return {package, "cli", *FREE}
    at = next(at for at, layer in enumerate(LAYERS) if package in layer)
    below = {name for layer in LAYERS[at + 1 :] for name in layer}
    beside = set(BESIDE) if package in USES_BESIDE else set()
    return {package, *below, *beside, *FREE}


def package_of(module: str) -> str:
    """Return ``steal`` for ``pvtime.steal.account``."""
    return [*module.split("."), "__init__"][1]


LOADERS = {"pvtime", "pvtime.cli.command"}
"""Modules that import others by names that they put together: the public API's, and each command's."""


def defining(found: Import) -> str:
    """Return the module that an import names; a name of the public API is in its own."""
    if found.module == "pvtime" and found.name in API_HOMES:
        return f"pvtime.{API_HOMES[found.name]}"
    return found.module


def target(found: Import) -> str:
    """Return the package that an import reaches into; ``from pvtime import steal`` reaches into steal."""
    if found.module == "pvtime" and found.name and (ROOT / "pvtime" / found.name).is_dir():
        return found.name
    if found.module == "pvtime" and found.name in ("*", ENTRY):
        return ENTRY  # everything, or what is above all
    return package_of(defining(found))


def is_private(name: str) -> bool:
    """Whether ``name`` is its package's own; ``__version__`` and its like are not."""
    return name.startswith("_") and not name.endswith("__")


def module_of(file: Path) -> str:
    """Return ``pvtime.steal.account`` for its file, ``pvtime.steal`` for the package's ``__init__.py``."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def home(found: Import) -> str:
    """Return the package whose file imports."""
    return package_of(".".join(found.file.relative_to(ROOT).with_suffix("").parts))


def sources() -> list[Path]:
    """Return pvtime's source files."""
    return sorted((ROOT / "pvtime").rglob("*.py"))


@cache
def every_import() -> list[Import]:
    """Return all imports of pvtime's own modules in its sources, which several tests look through."""
    found = (one for file in sources() for one in imports_of(ROOT, file))
    return [one for one in found if one.module.split(".")[0] == "pvtime"]


def test_packages_import_only_downwards() -> None:
    wrong = [
        f"{one} ({home(one)} may not)" for one in every_import() if target(one) not in allowed(home(one))
    ]
    assert not wrong, "\n".join(wrong)


def test_nobody_else_imports_by_a_name_that_it_puts_together() -> None:
    loaders = {
        module_of(file)
        for file in sources()
        if re.search(r"\b(import_module|__import__)\b", file.read_text())
    }
    assert loaders == LOADERS


@pytest.mark.parametrize(
    "line", ["from pvtime import Guest", "from pvtime import *", "from pvtime import __main__"]
)
def test_what_the_root_offers_is_not_free(tmp_path: Path, line: str) -> None:
    # A module of steal/ could have imported the public API, and through it everything.
    file = tmp_path / "pvtime" / "steal" / "clock.py"
    file.parent.mkdir(parents=True)
    file.write_text(line)
    assert [target(one) in allowed("steal") for one in imports_of(tmp_path, file)] == [False]


def test_no_package_takes_the_private_names_of_another() -> None:
    wrong = [
        str(one)
        for one in every_import()
        if home(one) != target(one)
        and any(is_private(part) for part in [*one.module.split("."), one.name or ""])
    ]
    assert not wrong, "\n".join(wrong)


def test_every_package_has_its_place() -> None:
    packages = {path.parent.name for path in (ROOT / "pvtime").glob("*/__init__.py")}
    placed = {name for layer in LAYERS for name in layer} | set(BESIDE)
    assert packages == placed, "a new package needs its place in this file and in the design"


def target_module(found: Import, modules: set[str]) -> str:
    """Return the module that is imported, also where a package's ``from`` names it."""
    submodule = f"{found.module}.{found.name}"
    return submodule if submodule in modules else defining(found)


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {module_of(file) for file in sources()}
    imported = defaultdict(set)
    for one in every_import():
        edge = module_of(one.file), target_module(one, modules)
        if not (one.for_types and edge in BACKWARDS):
            imported[edge[0]].add(edge[1])
    try:
        TopologicalSorter(imported).prepare()
    except CycleError as error:
        pytest.fail("a circle of imports: " + " <- ".join(error.args[1]))


def test_every_exception_for_a_circle_is_in_use() -> None:
    modules = {module_of(file) for file in sources()}
    edges = {(module_of(one.file), target_module(one, modules)) for one in every_import() if one.for_types}
    stale = [edge for edge in BACKWARDS if edge not in edges]
    assert not stale


def homes_of_classes() -> dict[str, list[str]]:
    """Return the modules that define a class, by its name."""
    homes = defaultdict(list)
    for file in sources():
        for name in classes_of(file):
            homes[name].append(module_of(file))
    return homes


def test_no_two_classes_have_one_name() -> None:
    shared = {name: homes for name, homes in homes_of_classes().items() if len(homes) > 1}
    wrong = [f"{name}: {', '.join(homes)}" for name, homes in shared.items() if name not in SHARED_NAMES]
    assert not wrong, "\n".join(wrong)
    stale = [name for name in SHARED_NAMES if name not in shared]
    assert not stale, "no longer shared"


@pytest.mark.parametrize(
    ("line", "module", "name"),
    [
        ("import pvtime.cli.run", "pvtime.cli.run", None),
        ("from pvtime.cli import run", "pvtime.cli", "run"),
        ("from . import account", "pvtime.steal", "account"),
        ("from ..cli import run", "pvtime.cli", "run"),
        ("def f():\n    from ..cli.run import x", "pvtime.cli.run", "x"),
    ],
)
def test_every_form_of_import_is_found(tmp_path: Path, line: str, module: str, name: str | None) -> None:
    file = tmp_path / "pvtime" / "steal" / "clock.py"
    file.parent.mkdir(parents=True)
    file.write_text(line)
    assert [(one.module, one.name) for one in imports_of(tmp_path, file)] == [(module, name)]


def test_imports_for_types_alone_are_told_from_others(tmp_path: Path) -> None:
    file = tmp_path / "pvtime" / "steal" / "clock.py"
    file.parent.mkdir(parents=True)
    file.write_text("import a\nif TYPE_CHECKING:\n    from b import c\nelse:\n    import d\n")
    assert {one.module: one.for_types for one in imports_of(tmp_path, file)} == {
        "a": False,
        "b": True,
        "d": False,
    }


LATER = {
    "cattrs": "states and reports are decoded by it",
    "decimal": "a schedule of steal has such numbers",
    "hashlib": "images that were not written since need no checksum",
    "pvtime.abi.kvm_x86": "the kvm engine runs on arm64",
    "pvtime.report.document": "the report is written at the end",
    "pvtime.report.table": "the last tables, and those of a terminal, are drawn in userland",
    "pvtime.run.control_protocol": "somebody must ask first",
    "pvtime.run.warm": "--warm",
    "pvtime.snapshot.directory": "--save-at and restore",
    "rich": "the tables are drawn in userland",
}
"""Modules that a run imports behind the guest's first instruction, or not at all, and what they are for."""

LATER_ON_KVM = LATER | {
    "lzma": "no stock kernel is packed so",
    "tempfile": "files that are written at the end, or where there is no $XDG_RUNTIME_DIR",
    "unicorn": "the other engine",
}
"""The same for the kvm engine: unicorn imports some of them itself."""


@pytest.mark.parametrize(("package", "later"), [("unicorn", LATER), ("kvm", LATER_ON_KVM)])
def test_a_run_imports_before_its_guest_only_what_it_needs(package: str, later: dict[str, str]) -> None:
    program = (
        "import sys\n"
        "import pvtime.cli.run, pvtime.run.run_machine, pvtime.run.source, pvtime.run.runtime_dir\n"
        "import pvtime.images.store, pvtime.userland.build\n"
        f"import pvtime.engine.{package}.engine\n"
        f"print(*sorted(set(sys.modules) & set({sorted(later)})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], "imported too early"


def test_the_version_is_told_without_the_command_line() -> None:
    program = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "from pvtime.__main__ import main\n"
        "sys.argv[1:] = ['--version']\n"
        "print(main(), *sorted({'click', 're', 'typing'} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"pvtime {pvtime.__version__}\n0\n"
