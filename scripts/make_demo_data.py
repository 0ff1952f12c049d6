"""Write the demo data: `data/raw/tickets.jsonl` and `data/test_sets/unseen_phrasings.jsonl`.

The same seed writes the same bytes. Standard library only: `python scripts/make_demo_data.py`.
"""

import argparse
import sys
from pathlib import Path

from demo_tickets.files import SEED, tickets_jsonl, unseen_phrasings_jsonl

DATA = Path(__file__).resolve().parent.parent / "data"


def main() -> None:
    """Write both files under `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DATA, help="folder that holds raw/ and test_sets/")
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    files = {
        args.out / "raw" / "tickets.jsonl": tickets_jsonl(args.seed),
        args.out / "test_sets" / "unseen_phrasings.jsonl": unseen_phrasings_jsonl(args.seed),
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        sys.stdout.write(f"{path}: {text.count(chr(10))} lines\n")


if __name__ == "__main__":
    main()
