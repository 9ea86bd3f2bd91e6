"""`python -m seq_ml.encoder`: the encoder from plain files, like `seqline model`."""

from seq_ml.encoder.commands import model

model()
