"""How a host comes into a group."""
