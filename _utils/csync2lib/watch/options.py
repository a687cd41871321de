"""The beacon's options, as the watcher gets them: the beacon has checked them, and knows their defaults."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
    """The beacon's documentation tells what they mean. Times are in seconds."""

    settle: float
    max_delay: float
    max_paths: int
    retry: float
    state_dir: str
