"""Implementation of `runs`, `bookmarks` and `journal`."""
