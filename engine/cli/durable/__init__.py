"""What the verbs for durable runs on Temporal do."""
