from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from ft_pipeline.definitions import defs
from ft_pipeline.lineage import CODE_VERSIONS

GRAPH = {
    "raw_dataset": set(),
    "validated_dataset": {"raw_dataset"},
    "trained_adapter": {"validated_dataset"},
    "merged_model": {"trained_adapter"},
    "gguf_model": {"merged_model", "validated_dataset"},
    "evaluation_report": {"gguf_model", "validated_dataset"},
    "published_model": {"evaluation_report"},
}
HEAVY = ("torch", "unsloth", "transformers", "trl", "peft", "bitsandbytes", "datasets", "llama_cpp", "matplotlib")


def _load_in_a_fresh_process(code: str, project: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_loading_the_definitions_imports_no_heavy_library_and_warns_of_nothing(project: Path) -> None:
    code = f"import sys, ft_pipeline.definitions; print([m for m in {HEAVY} if m in sys.modules])"
    assert _load_in_a_fresh_process(code, project) == "[]"


def test_the_core_does_not_import_dagster(project: Path) -> None:
    code = (
        "import sys, ft_pipeline.pipeline, ft_pipeline.retention, ft_pipeline.doctor; print('dagster' in sys.modules)"
    )
    assert _load_in_a_fresh_process(code, project) == "False"


def test_the_graph_is_the_documented_one() -> None:
    graph = defs.resolve_asset_graph()
    found = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert found == GRAPH


@pytest.mark.parametrize("name", GRAPH)
def test_every_asset_says_who_owns_it_what_it_is_and_its_code_version(name: str) -> None:
    spec = defs.resolve_asset_graph().get(dg.AssetKey(name)).assets_def.specs_by_key[dg.AssetKey(name)]
    assert spec.description
    assert spec.group_name == "fine_tuning"
    assert spec.owners == ["team:ft-pipeline"]
    assert spec.kinds
    assert spec.code_version == CODE_VERSIONS[name]


def test_training_alone_is_in_the_gpu_pool() -> None:
    graph = defs.resolve_asset_graph()
    pools = {key.to_user_string(): graph.get(key).pools for key in graph.get_all_asset_keys()}
    assert {name for name, found in pools.items() if found} == {"trained_adapter"}
    assert pools["trained_adapter"] == {"gpu"}
