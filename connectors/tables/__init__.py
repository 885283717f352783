"""Tables made from records: columns, deliveries that are remembered, and rows that fail alone."""
