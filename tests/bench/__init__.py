"""The benchmark: fleetmesh beside Envoy, HAProxy, nginx and no proxy at all.

`python -m tests.bench -h`, or `make bench ARGS=--quick`. Every contender is the same pair: an
outbound proxy that takes plain connections, mutual TLS, an inbound proxy that admits one caller
of twenty, the application. `docs/performance.md` says what is measured and how.
"""
