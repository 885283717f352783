"""Prove "nothing lost, nothing twice" with real processes; see docs/reliability.md.

`children` starts and kills processes, `workload` says what they run, `evidence` reads what they left,
`verdict` compares it with what an undisturbed run leaves, `blows` and `trial` put the two together, and
`proxy` makes any wire go wrong.
"""
