"""Churn: who stops ordering, and whose spend falls."""
