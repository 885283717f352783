"""The operator's page: server-rendered HTML for the service and, with a file, for its runs."""
