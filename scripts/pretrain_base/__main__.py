"""Make the embedded base model: `python -m pretrain_base --out data/base_model` in `scripts/` (see its README)."""

import argparse
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoTokenizer

from pretrain_base.evaluate import pretraining_scores
from pretrain_base.tokenizer import save_tokenizer
from pretrain_base.train import TrainingPlan, train

log = logging.getLogger("pretrain_base")


def _arguments() -> argparse.Namespace:
    plan = TrainingPlan()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model; a tokenizer in it is kept")
    parser.add_argument("--layers", type=int, default=plan.layers)
    parser.add_argument("--ffn", type=int, default=plan.ffn)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=plan.steps)
    parser.add_argument("--seconds", type=float, default=plan.seconds, help="end the training after so long; 0: never")
    parser.add_argument("--shards", type=int, default=plan.shards, help="shards of 6,000 documents")
    parser.add_argument("--batch-rows", type=int, default=plan.batch_rows)
    parser.add_argument("--learning-rate", type=float, default=plan.learning_rate)
    parser.add_argument("--seed", type=int, default=plan.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    """Tokenizer, shards (beside the training), training, scores."""
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)7d ms %(message)s")
    args = _arguments()
    if not (args.out / "tokenizer.json").exists():
        save_tokenizer(args.out, args.vocab, args.seed)
    tokenizer = AutoTokenizer.from_pretrained(str(args.out))
    log.info("tokenizer of %d tokens", len(tokenizer))
    plan = TrainingPlan(
        layers=args.layers,
        ffn=args.ffn,
        steps=args.steps,
        seconds=args.seconds,
        batch_rows=args.batch_rows,
        learning_rate=args.learning_rate,
        shards=args.shards,
        seed=args.seed,
    )
    with tempfile.TemporaryDirectory() as scratch:
        processes = max(1, (os.cpu_count() or 2) - 1)
        job = [str(args.out / "tokenizer.json"), scratch, str(args.shards), str(processes)]
        with subprocess.Popen([sys.executable, "-m", "pretrain_base.shards", *job]) as writer:
            model = train(tokenizer, Path(scratch), plan, args.device)
            writer.terminate()
    model.save_pretrained(str(args.out))
    for name, score in pretraining_scores(model, tokenizer, seed=10**6).items():
        log.info("%-18s %.3f", name, score)


if __name__ == "__main__":
    main()
