"""The tables against the strongest simple methods, by the protocols of their reports."""
