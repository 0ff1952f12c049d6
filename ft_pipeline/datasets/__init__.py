"""From files to trustworthy rows: `snapshot.py` (raw_dataset), then `validate.py` (validated_dataset)."""
