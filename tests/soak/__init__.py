"""The soak: an hour of mixed traffic through two real data planes, and what is left of it.

`python -m tests.soak --minutes 60 --rate 50`. It prints a line of figures every ten seconds and a
verdict, and exits 1 when memory grew, a file descriptor was left, or something failed that was not
provoked.
"""
