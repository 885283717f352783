"""Connection, HTTP client and reading routes of an ingest service, shared by connectors."""
