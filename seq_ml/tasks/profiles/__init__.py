"""User profiles: segments, tags, expected spend, what is unusual."""
