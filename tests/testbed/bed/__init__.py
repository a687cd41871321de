"""A real Salt master and real Debian hosts on one machine, for trying out and testing this formula."""
