"""Display of runs on a terminal or in a log."""
