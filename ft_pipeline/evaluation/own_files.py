"""Files of the user's own that an evaluation runs: metrics in Python, tasks for lm-evaluation-harness.

They lie in the project's folder, links resolved: a recipe cannot name code elsewhere on the machine.
"""

from __future__ import annotations

from pathlib import Path

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.request import OwnFile
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.recipe_evaluation import EvaluationSection, HarnessSection


def find_metric_files(settings: EvaluationSection, root: Path) -> tuple[OwnFile, ...]:
    """The recipe's metrics with their hashes.

    Raises:
        EvaluationError: one is not there, is no Python file, or lies outside the project.
    """
    paths = [_contain(file, root, "evaluation.metric_files") for file in settings.metric_files]
    for path in paths:
        if path.suffix != ".py" or not path.is_file():
            raise EvaluationError(f"evaluation.metric_files must name Python files; {path} is none")
    return tuple(OwnFile(path=path, sha256=hash_file(path)) for path in paths)


def find_task_folder(settings: HarnessSection, root: Path) -> Path | None:
    """The folder of the user's own tasks, if the recipe names one.

    Raises:
        EvaluationError: it is not there, or lies outside the project.
    """
    if settings.task_folder is None:
        return None
    folder = _contain(settings.task_folder, root, "evaluation.harness.task_folder")
    if not folder.is_dir():
        raise EvaluationError(f"evaluation.harness.task_folder must be a folder; {folder} is none")
    return folder


def find_task_files(settings: HarnessSection, root: Path) -> tuple[OwnFile, ...]:
    """All files of that folder with their hashes.

    Raises:
        EvaluationError: as `find_task_folder`.
    """
    folder = find_task_folder(settings, root)
    paths = sorted(path for path in folder.rglob("*") if path.is_file()) if folder else []
    return tuple(OwnFile(path=path, sha256=hash_file(path)) for path in paths if "__pycache__" not in path.parts)


def _contain(name: str, root: Path, field: str) -> Path:
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise EvaluationError(f"{field} must lie in the project's folder {root}; {name} is {path}")
    return path
