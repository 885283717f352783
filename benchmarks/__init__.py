"""The benchmark suite: interleaved arms, an A/A control, paired ratios with intervals, results as JSON.

Run it with ``python -m benchmarks list|run|report``; ``benchmarks/README.md`` explains how to read the
results.
"""
