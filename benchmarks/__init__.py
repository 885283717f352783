"""The benchmark suite: interleaved arms, an A/A control, paired ratios with an interval, results as JSON.

Run it with ``python -m benchmarks list|run|report``; ``benchmarks/README.md`` says how to read them.
"""
