"""Names of the concurrency pools; each has one slot (`default_limit: 1` in dagster.yaml)."""

INGEST = "ingest"
"""Writers of the ledger, staged rows and clean days: one at a time."""

GPU = "gpu"
"""Training: one at a time, whatever started it."""
