"""Ingest: dropped files, read through their source mapping, become staged rows."""
