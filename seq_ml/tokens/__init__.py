"""Tokens: the vocabulary, and token shards on disk."""
