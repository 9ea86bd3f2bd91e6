"""Rules of cleaning: one per module, each says what it rejects and why."""
