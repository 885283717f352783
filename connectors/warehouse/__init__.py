"""What connectors share that talk to an ingest service: its connection, its HTTP, its reading routes."""
