"""Print what the tests (or another extra of setup.cfg, given by name) need, one requirement a line."""

import configparser
import sys
from pathlib import Path

config = configparser.ConfigParser()
config.read(Path(__file__).resolve().parents[1] / "setup.cfg")
print(config["options.extras_require"][(sys.argv[1:] or ["tests"])[0]].strip())
