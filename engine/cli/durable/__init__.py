"""Implementation of the verbs for durable runs on Temporal."""
