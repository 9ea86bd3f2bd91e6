"""User sequences: each user's newest events before a cut-off, oldest first."""
