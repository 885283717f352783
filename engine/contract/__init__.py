"""The contract of connectors: batches of records, keys, acks and component classes."""
