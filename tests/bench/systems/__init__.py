"""The systems that are measured side by side; each keeps a tree of its own on the same hosts."""
