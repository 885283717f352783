"""The benchmarks themselves; every module here is found by :mod:`benchmarks.discovery`."""
