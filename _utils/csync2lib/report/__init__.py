"""What an administrator, or a monitor, is shown."""
