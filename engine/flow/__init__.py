"""The parts of a run: edges, batching, the byte budget, retries, segments."""
