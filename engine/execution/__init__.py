"""Execution of plans: the engine, its runs, and the ledger that accounts for every record."""
