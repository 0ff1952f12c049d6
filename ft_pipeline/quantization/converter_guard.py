"""Runs one of llama.cpp's converter scripts so that no code of the model is run: `converter_guard.py SCRIPT ...`.

The converter goes by `architectures` of config.json, and for some of them it loads the tokenizer with
`trust_remote_code=True`: a folder that calls itself such an architecture could bring a Python file that is run. Here
transformers is left nothing to run it with.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any, NoReturn

REFUSAL = "the model brings code of its own (auto_map), and no code of a model is run"


def main(script: str) -> None:
    """Run the script with the arguments that follow it."""
    from transformers import dynamic_module_utils

    dynamic_module_utils.get_class_in_module = _refuse  # the one place that imports a model's file
    dynamic_module_utils.get_cached_module_file = _refuse  # and the one that fetches it
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")


def _refuse(*_arguments: Any, **_named: Any) -> NoReturn:
    raise RuntimeError(REFUSAL)


if __name__ == "__main__":
    main(sys.argv[1])
