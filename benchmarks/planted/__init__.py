"""Logs with a planted sequential signal, their best possible prediction, and who finds it."""
