"""Implementation of `dlq`."""
