"""The plan: a validated, immutable graph of nodes, compiled from the configuration."""
