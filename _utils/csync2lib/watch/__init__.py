"""From what happens in the includes to the journal, and to an event."""
