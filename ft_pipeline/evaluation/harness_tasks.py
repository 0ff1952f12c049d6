"""Tasks of lm-evaluation-harness by name: found, refused where they would run foreign code, loaded."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ft_pipeline.datasets.sources.redaction import hide_credentials
from ft_pipeline.errors import EvaluationError

_FOREIGN_CODE = re.compile(r"trust_remote_code\s*=\s*True|\bevaluate\.load\(|\bload_metric\(")


def find_tasks(names: Sequence[str], folder: Path | None) -> Any:
    """lm-evaluation-harness's index, in which all the names are.

    The package's own 14,000 tasks are looked through only for names that the folder does not have: that takes seconds.

    Args:
        names: Tasks, groups or tags.
        folder: YAML tasks of the user's own, which go before the package's.

    Raises:
        EvaluationError: lm-evaluation-harness is not installed, the folder is missing, a name is unknown, or a task
            would run code that comes from the Hub or from the model.
    """
    if find_spec("lm_eval") is None:
        raise EvaluationError(
            "evaluation.harness needs lm-evaluation-harness, and the package lm-eval is not installed. "
            "Run pip install 'ft-pipeline[harness]', in a checkout make setup."
        )
    if folder is not None and not folder.is_dir():
        raise EvaluationError(f"evaluation.harness.task_folder must be a folder; {folder} is none")
    manager = _index(folder, with_package=False)
    if not all(_is_whole(name, manager.task_index) for name in names):
        manager = _index(folder, with_package=True)
    for name in names:
        _require_known(name, manager, folder)
        for config in _walk_configs(name, manager.task_index):
            _refuse_foreign_code(name, config)
    return manager


def load_task(name: str, manager: Any) -> Any:
    """A task, or a group of them, with its data; what `lm_eval.evaluate` takes.

    Raises:
        EvaluationError: its data set cannot be had, or its code or its YAML fails.
    """
    try:
        loaded = manager.load([name])
    except Exception as err:
        configs = _walk_configs(name, manager.task_index)
        sets = sorted({str(config["dataset_path"]) for config in configs if config.get("dataset_path")})
        raise EvaluationError(
            f"harness task {name!r} must load; it does not, with the data set {', '.join(sets) or 'of its own'}: "
            f"{explain(err)} Data sets come from the Hugging Face Hub or its cache; one that is a script is not run."
        ) from err
    if not loaded["tasks"]:
        raise EvaluationError(f"harness task {name!r} must hold a task; it is an empty group")
    return loaded


def explain(error: BaseException) -> str:
    """A foreign error in one line."""
    text = hide_credentials(" ".join(str(error).split()))[:400]
    return f"{type(error).__name__}: {text}" + ("" if text.endswith(".") else ".")


@cache
def _index(folder: Path | None, *, with_package: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=None if folder is None else str(folder), include_defaults=with_package)


def _is_whole(name: str, index: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> bool:
    """The index has the task, or the group and all that it holds by name."""
    if name not in index or name in seen:
        return False
    members = (index[name].cfg or {}).get("task")
    return not isinstance(members, list) or all(
        isinstance(member, str) and _is_whole(member, index, seen | {name}) for member in members
    )


def _require_known(name: str, manager: Any, folder: Path | None) -> None:
    if name in manager.task_index:
        return
    near = difflib.get_close_matches(name, manager.all_tasks, n=3)
    raise EvaluationError(
        f"evaluation.harness.tasks must name tasks of lm-evaluation-harness; there is no {name!r}"
        + (f" there or in {folder} (a YAML file that cannot be read counts for nothing)" if folder else "")
        + f". Nearest: {', '.join(near) or 'none'}."
    )


def _walk_configs(name: str, index: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """Settings of a task and of all that a group or tag holds; `!function` entries are still texts."""
    entry = index.get(name)
    if entry is None or name in seen:
        return
    config = {**(entry.cfg or {}), "yaml": str(entry.yaml_path or "")}
    yield config
    members = config.get("task")
    # A task's entry names its tags there, a tag's its tasks.
    tagged = sorted(entry.tags) if entry.kind.name == "TAG" else []
    for member in [*tagged, *(members if isinstance(members, list) else [])]:
        if isinstance(member, dict):
            yield from _walk_inline(member, index, seen | {name})
        else:
            yield from _walk_configs(str(member), index, seen | {name})


def _walk_inline(member: dict[str, Any], index: Mapping[str, Any], seen: frozenset[str]) -> Iterator[dict[str, Any]]:
    yield member
    for child in (member.get("group"), member.get("task")):
        for one in child if isinstance(child, list) else [child]:
            if isinstance(one, dict):
                yield from _walk_inline(one, index, seen)
            elif one is not None:
                yield from _walk_configs(str(one), index, seen)


def _refuse_foreign_code(name: str, config: Mapping[str, Any]) -> None:
    reason = _find_foreign_code(config)
    if reason is not None:
        raise EvaluationError(
            f"harness task {name!r} must run no code from the Hub and none that the model writes; {reason}. "
            "Choose another task."
        )


def _find_foreign_code(config: Mapping[str, Any]) -> str | None:
    from lm_eval.api.registry import metric_registry

    # Fills the registry.
    import_module("lm_eval.api.metrics")
    if config.get("unsafe_code"):
        return f"{config.get('task')} runs the model's answers as programs"
    for metric in config.get("metric_list") or ():
        label = metric.get("metric")
        # With results of its own a task's metrics are names alone; `!function` gives a path.
        known = "process_results" in config or str(label) in metric_registry or "/" in str(label)
        if metric.get("hf_evaluate") or not known:
            return f"{config.get('task')} downloads the program of its metric {label}"
    for file in sorted({path for folder in _find_folders(config) for path in folder.glob("*.py")}):
        found = _FOREIGN_CODE.search(file.read_text(encoding="utf-8", errors="replace"))
        if found:
            return f"{file} says {found[0]}"
    return None


def _find_folders(config: Mapping[str, Any]) -> set[Path]:
    """Where a task's functions lie: beside its YAML file, or beside one that it includes."""
    return {Path(text).parent for text in _walk_texts(config) if text.startswith("/") and Path(text).parent.is_dir()}


def _walk_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str) and "\n" not in value:
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _walk_texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _walk_texts(part)
