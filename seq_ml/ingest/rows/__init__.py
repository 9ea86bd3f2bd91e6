"""Rows of a file become canonical rows, each with an id, or a reason why not."""
