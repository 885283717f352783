"""Tables from records: columns, the ledger of deliveries, and rows that fail alone."""
