"""Seqline's library: from raw behaviour logs to published prediction tables, without Dagster.

Stages, in the order the data flows: storage, ingest, clean, sequences, tokens, encoder, tasks,
evaluation, registry. An import never points to a later stage.
"""
