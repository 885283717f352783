"""The contract with connectors: batches of records, keys, acks and component classes."""
