"""What the master decides. Here, and in watch/notify.py, Salt is imported."""
