"""Recommendation quality of Seqline and its peers on identical splits, compared user by user."""
