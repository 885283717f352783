"""What `dlq` does."""
