"""From the journal to the other hosts."""
