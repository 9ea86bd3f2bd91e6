"""Models that several tasks use, and what they say of their predictions."""
