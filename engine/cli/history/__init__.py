"""What is remembered of earlier runs: runs, bookmarks, the answer journal."""
