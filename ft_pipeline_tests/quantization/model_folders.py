"""A model folder whose tokenizer llama.cpp's converter cannot read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ft_pipeline_tests.tiny_model import CHATML, CORPUS, SPECIAL_TOKENS


def make_unknown_tokenizer(folder: Path) -> None:
    """A byte-level BPE trained at home: llama.cpp's converter knows such tokenizers by a hash, and not this one."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(CORPUS, vocab_size=300, special_tokens=SPECIAL_TOKENS, show_progress=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, bos_token="<s>", eos_token="<|im_end|>")
    fast.chat_template = CHATML
    fast.save_pretrained(folder)
