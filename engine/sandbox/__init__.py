"""Embedded services in one child process, on loopback: S3, a model stand-in and the ingest service."""
