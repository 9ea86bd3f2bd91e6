"""The Dagster definitions: WHEN and WHERE each stage of `seq_ml` runs."""
