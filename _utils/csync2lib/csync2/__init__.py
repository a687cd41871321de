"""All that knows csync2's formats, and nothing of Salt."""
