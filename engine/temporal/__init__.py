"""The same pipelines on Temporal: durable and on many machines.

`workflows` decide, `activities` work, `messages` are what passes between them, `worker` runs both, `client`
starts and steers them. Nothing but the command line imports this package.
"""
