"""
Run a module of this package as a program, by Python alone: ``python -I …/csync2lib/__main__.py actions DIRECTORY``.

systemd's units and pushes call it: Salt takes a second to begin. The package's directory does not come onto Python's
path: what else is there may be named as a module of the standard library.
"""

from __future__ import annotations

import importlib
import os
import sys
import types

if __name__ == "__main__":
    package = sys.modules["csync2lib"] = types.ModuleType("csync2lib")
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    importlib.import_module(f"csync2lib.{sys.argv[1]}").main(sys.argv[2:])
