"""The operator's page: server-drawn HTML over the service and, with a file, over its runs."""
