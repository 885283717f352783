"""The benchmarks; :mod:`benchmarks.discovery` finds every module here."""
