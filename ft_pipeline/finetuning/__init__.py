"""From tokenized rows to a LoRA adapter, on one device that is held by one process at a time."""
