"""The encoder: pre-training on token shards, and its use at any instant."""

import os

# Large tensors in huge pages: a step of `small` takes a quarter less time. torch reads this once,
# at its first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
