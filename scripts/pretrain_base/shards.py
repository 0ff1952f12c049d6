"""The corpus as shards of token ids, made by all cores while the training already runs.

A process of its own, without PyTorch: `python -m pretrain_base.shards TOKENIZER_JSON FOLDER SHARDS PROCESSES`.
"""

import random
import sys
import time
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from pretrain_base.corpus import document

ROW_TOKENS = 384
DOCUMENTS_PER_SHARD = 6_000


def shard_rows(tokenizer: Tokenizer, seed: int, documents: int) -> np.ndarray:
    """Documents end to end, cut into rows of `ROW_TOKENS`. Shape: (rows, ROW_TOKENS), uint16."""
    rng = random.Random(seed)
    texts = [document(rng) for _ in range(documents)]
    ids = np.fromiter(
        (i for e in tokenizer.encode_batch(texts, add_special_tokens=False) for i in e.ids), dtype=np.uint16
    )
    return ids[: len(ids) // ROW_TOKENS * ROW_TOKENS].reshape(-1, ROW_TOKENS)


def _write_shard(job: tuple[str, str, int]) -> None:
    tokenizer_file, folder, seed = job
    rows = shard_rows(Tokenizer.from_file(tokenizer_file), seed, DOCUMENTS_PER_SHARD)
    part = Path(folder) / f"{seed:06d}.part.npy"
    np.save(part, rows, allow_pickle=False)
    part.rename(Path(folder) / f"{seed:06d}.npy")


def write_shards(tokenizer_file: Path, folder: Path, shards: int, processes: int, first: int = 1) -> None:
    """Make `shards` shards with the seeds `first`, `first` + 1, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(str(tokenizer_file), str(folder), seed) for seed in range(first, first + shards)]
    with Pool(processes) as pool:
        for _ in pool.imap(_write_shard, jobs):
            pass


def read_shard(folder: Path, seed: int, timeout_seconds: float = 300.0) -> np.ndarray:
    """The shard of `seed`; waits until it is there.

    Raises:
        TimeoutError: the shard did not come in time.
    """
    path = folder / f"{seed:06d}.npy"
    end = time.monotonic() + timeout_seconds
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{path}: no such shard after {timeout_seconds:.0f} s. Does the shard writer still run?")
        time.sleep(0.05)
    rows: np.ndarray = np.load(path, allow_pickle=False)
    return rows


if __name__ == "__main__":
    write_shards(Path(sys.argv[1]), Path(sys.argv[2]), shards=int(sys.argv[3]), processes=int(sys.argv[4]))
