"""From pillar and mine to csync2's config."""
