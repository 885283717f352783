"""What `run` does: runs in this process."""
