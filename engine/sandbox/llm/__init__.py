"""A chat-completions endpoint that extracts by rules: the sandbox's stand-in for a language model."""
