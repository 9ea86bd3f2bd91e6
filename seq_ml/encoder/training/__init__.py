"""Pre-training: the loop, its optimizers and checkpoints, growth from an older model."""
