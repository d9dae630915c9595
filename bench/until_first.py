# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime`` with the arguments of this program, up to a guest's first instruction: there the process ends.

It imports nothing that Python has not imported already, so that its CPU time is pvtime's.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # that of typing would be an import of its own
if TYPE_CHECKING:
    from typing import Any

LOOP = "pvtime.engine.unicorn.run_loop"


class EndAtFirst:
    """Finder and loader of the run loop: it ends the process where the first vCPU would be entered."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Find the run loop's module, to be loaded by this loader."""
        finder = sys.modules["_frozen_importlib_external"].PathFinder
        spec = finder.find_spec(name, path) if name == LOOP else None
        if spec is not None:
            self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: Any) -> None:
        """Have the import system create it."""

    def exec_module(self, module: Any) -> None:
        """Load the module."""
        self._loader.exec_module(module)
        module.RunLoop.run = lambda _loop: os._exit(0)


if __name__ == "__main__":
    sys.meta_path.insert(0, EndAtFirst())
    from pvtime.__main__ import main

    sys.exit(main())
