"""Faults under load on a fleet of real hosts: `make chaos`, see docs/chaos.md."""
