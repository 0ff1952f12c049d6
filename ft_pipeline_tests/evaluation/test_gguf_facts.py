from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.gguf_facts import read_gguf_facts


@pytest.mark.parametrize(("blocks", "tensor"), [(2**31, "blk.0.x"), (1, "blk.4000000000.x")])
def test_more_layers_than_tensors_are_told_and_not_counted(tmp_path: Path, blocks: int, tensor: str) -> None:
    path = tmp_path / "hostile.gguf"
    writer: Any = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(blocks)
    writer.add_tensor(tensor, np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(EvaluationError, match=r"hostile\.gguf claims \d{10} layers and has 1 tensors"):
        read_gguf_facts(path)
