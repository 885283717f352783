"""An async pipeline engine: YAML DAGs, backpressure in bytes, batched model calls, dead letters."""
