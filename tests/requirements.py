"""Print what the tests need, one requirement a line, as setup.cfg names it."""

import configparser
from pathlib import Path

config = configparser.ConfigParser()
config.read(Path(__file__).resolve().parents[1] / "setup.cfg")
print(config["options.extras_require"]["tests"].strip())
