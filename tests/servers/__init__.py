"""Real servers for tests: found or built beforehand, started on loopback, stopped with the tests.

Where a server is not installed its tests are skipped, and say why; with ODW_REQUIRE_SERVERS set, as in
`.ci/run`, that is a failure.
"""
