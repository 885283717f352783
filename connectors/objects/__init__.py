"""Patterns over keys, text decoding and document reading for any object store."""
