"""A trained encoder at work: user vectors, item scores, the best items of each user."""
