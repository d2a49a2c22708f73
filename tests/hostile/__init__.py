"""Peers that mean harm or are broken: the agent stays responsive, its memory bounded, and each
ends as docs/limits.md says."""
