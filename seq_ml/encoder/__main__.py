"""`python -m seq_ml.encoder`: see commands.py."""

from seq_ml.encoder.commands import model

model()
