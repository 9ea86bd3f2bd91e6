"""Erasure: remove a person from everything that is stored, and prove it by a byte search."""
