"""Run pipelines on Temporal, durably and on many machines.

`workflows` decide, `activities` work, `messages` pass between them, `worker` runs both, `starting` starts
runs and `schedules` repeats them. Only the command line imports this package.
"""
