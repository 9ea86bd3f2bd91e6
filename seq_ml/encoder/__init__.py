"""The encoder: pre-training on token shards, and its use at any instant."""

import os

# Large tensors in huge pages: a step of `small` takes a quarter less time. torch reads this once,
# at its first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# Threads that wait for each other sleep after some 50 µs instead of some 10 ms, in which they keep
# other processes off the core: judging 640 users on two threads of a busy machine took 11 CPU s so,
# and takes 3. libgomp reads this when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
