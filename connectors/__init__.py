"""The built-in connectors; each is one module that may import the engine's contracts and its own SDK."""
