"""A fuzzer for framing and heads: `python -m tests.fuzz --minutes 10`."""
