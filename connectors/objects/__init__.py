"""Key patterns, text decoding and document reading for any object store."""
