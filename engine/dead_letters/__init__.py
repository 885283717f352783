"""The dead-letter queue of a run: store, search, patch and replay undeliverable records."""
