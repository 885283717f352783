"""What a connector sees: records in batches, their keys and acks, and the components that handle them."""
