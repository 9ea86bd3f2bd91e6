"""The encoder: pre-training on token shards, and its use at any instant."""
