"""
Run a module of this package as a program, by Python alone: ``python -I …/csync2lib/__main__.py actions DIRECTORY``.

systemd's units call it: Salt takes a second to begin. With -I no directory but the standard library's is on the path.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from csync2lib import actions

PROGRAMS = {"actions": actions.main}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2:])
