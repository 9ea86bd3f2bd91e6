"""Recommendations: which items each user buys next."""
