"""Connection, HTTP client and consumption routes of an ingest service, shared by connectors."""
