"""Files as they arrive: parquet, csv and jsonl, plain or compressed, in bounded batches."""
