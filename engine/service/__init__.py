"""The ingest and consumption service: HTTP in front, an embedded DuckDB warehouse behind.

Data flows one way: `bodies -> validation -> ingest -> warehouse (writer -> commit)`; reads go through
`consumption` and `dead_letters`. `server` runs the service on uvicorn, `app.create_app` creates it without a
socket.
"""
