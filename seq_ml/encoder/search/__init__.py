"""Hyper-parameter search over configurations of the encoder."""
