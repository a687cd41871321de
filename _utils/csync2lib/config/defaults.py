"""What holds where the pillar says nothing, if more than the schema asks for it."""

from __future__ import annotations

#: A push that deletes more files than the number, and a greater share of the group, is held.
HOLD: dict[str, float] = {"number": 100, "share": 0.5}
