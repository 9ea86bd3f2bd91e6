"""Token shards become training batches: histories, order, texts, augmentation."""
