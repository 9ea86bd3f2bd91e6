"""What pre-training asks, and the losses that answer."""
