"""Which recipes can be retrained by themselves: Dagster must know before anything has read them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ft_pipeline import environment
from ft_pipeline.errors import RecipeError
from ft_pipeline.file_lock import try_lock_file
from ft_pipeline.recipe_file import find_recipe, list_recipe_files, load_recipe, place_recipe, require_own_name
from ft_pipeline.recipe_retraining import RetrainingSection
from ft_pipeline.retraining.decision import Rest, StartedRun
from ft_pipeline.retraining.folder import recipe_folder, told_of_folder
from ft_pipeline.retraining.retrainer import Due, Retrainer

# Within the minute that Dagster gives a tick, with time left to look.
_WAIT_SECONDS = 20
_SECTION = re.compile(rb"""^(["']?)retraining\1\s*:""", re.MULTILINE)


@dataclass(frozen=True)
class Declared:
    """A recipe that can be retrained.

    Attributes:
        recipe: Its name, or its path, as the environment or the folder of recipes has it.
        label: The same in letters that names in Dagster may have.
        settings: What it says of retraining.
    """

    recipe: str
    label: str
    settings: RetrainingSection


def declare_retraining() -> list[Declared]:
    """The environment's recipe, and those in `recipes/` that have a section `retraining`.

    One that does not load has the default settings here; looking at its data says what is wrong with it.
    """
    root = environment.project_root()
    found: dict[str, Declared] = {}
    files = set()
    for name in (environment.recipe_name(), *_find_with_section(root)):
        file = os.path.realpath(place_recipe(name, root))
        if file in files:  # the environment may name it by its path
            continue
        files.add(file)
        label = re.sub(r"\W", "_", Path(name).stem if name.endswith((".yaml", ".yml")) else name, flags=re.ASCII)
        while label in found:  # a-b and a_b
            label += "_"
        found[label] = Declared(name, label, _read_settings(name, root))
    return list(found.values())


def look(recipe: str, started: list[StartedRun], now: datetime, *, is_patient: bool) -> Due | Rest:
    """Whether a run of a recipe is due: see `Retrainer.look`.

    Raises:
        RecipeError: the recipe does not load, or another one has its name.
    """
    root = environment.project_root()
    path = find_recipe(recipe, root)
    loaded = load_recipe(path)
    require_own_name(loaded.name, root, path, place_recipe(environment.recipe_name(), root))
    store_root = environment.artifacts_folder()
    lock = recipe_folder(store_root, loaded.name) / ".look.lock"
    # Dagster has given up an earlier tick, and what it looks at is read on; or the sensor looks at the schedule's time,
    # and its next time may be tomorrow.
    last_try = time.monotonic() + (0 if is_patient else _WAIT_SECONDS)
    with ExitStack() as held:
        with told_of_folder(lock):
            while not held.enter_context(try_lock_file(lock)):
                if time.monotonic() >= last_try:
                    return Rest("an earlier look still reads the data")
                held.close()
                time.sleep(0.5)
        return Retrainer(loaded, root, store_root).look(started, now, is_patient=is_patient)


def _find_with_section(root: Path) -> Iterator[str]:
    for path in list_recipe_files(root):
        with suppress(OSError):  # a folder, or somebody else's: no recipe of ours
            if _SECTION.search(path.read_bytes()):
                # A stem such as `a.yaml` would be taken for a path.
                yield path.stem if place_recipe(path.stem, root) == path else path.relative_to(root).as_posix()


def _read_settings(name: str, root: Path) -> RetrainingSection:
    try:
        return load_recipe(find_recipe(name, root)).retraining
    except RecipeError:
        return RetrainingSection()
