"""Implementation of `run`: runs in this process."""
