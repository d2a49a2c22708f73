"""A service under many times its load, with adaptive concurrency and without it.

`python -m tests.overload` runs both for 30 s and prints a table.
"""
