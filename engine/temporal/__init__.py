"""The same pipelines on Temporal: durable and on many machines.

`workflows` decide, `activities` work, `messages` are what passes between them, `worker` runs both, `starting`
begins a run, `watching` follows it and `schedules` repeat it. Only the command line imports this package.
"""
