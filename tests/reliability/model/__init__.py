"""A stateful model of origins, acks, splits and resume; docs/reliability.md explains its purpose.

`machine` has the rules, `moves` and `world` do each of them with the engine's own parts (`process`,
`components`, `stores`) and in the plain lists of `books`, and compare; `bugs` is what it has to find.
"""
