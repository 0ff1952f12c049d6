"""The variables that this package listens to. Nothing else here reads the environment for settings.

FT_PIPELINE_ROOT        the project's folder (default: the checkout that the package lies in)
FT_PIPELINE_RECIPE      a recipe's name or path (default: demo)
FT_PIPELINE_ARTIFACTS   the artifact store's folder (default: data/artifacts)
FT_PIPELINE_PUBLISHED   the folder that other programs take the champions from (default: published, beside the store)
FT_PIPELINE_DEVICE      auto, cpu, or a GPU's index or UUID (default: auto)
FT_PIPELINE_LOCK_DIR    the machine's folder of device locks
FT_PIPELINE_ALERT_*     who is told of runs (docs/alerts.md); not handed to the processes of stages

Of Dagster's, for `make doctor` and `make gc`:
DAGSTER_HOME            its folder
DAGSTER_PG_URL          its PostgreSQL, where deploy/postgres/dagster.yaml is used; not handed to stages
"""

from __future__ import annotations

import os
from pathlib import Path

import ft_pipeline
from ft_pipeline.alerts.settings import AlertSettings, read_settings
from ft_pipeline.finetuning.lease import default_lock_dir


def project_root() -> Path:
    """The project's folder, which a recipe's paths are relative to."""
    return Path(os.environ.get("FT_PIPELINE_ROOT") or Path(ft_pipeline.__file__).parent.parent).resolve()


def recipe_name() -> str:
    """The recipe to use where none is named."""
    return os.environ.get("FT_PIPELINE_RECIPE") or "demo"


def artifacts_folder() -> Path:
    """The artifact store's folder."""
    return project_root() / (os.environ.get("FT_PIPELINE_ARTIFACTS") or "data/artifacts")


def published_folder(store_root: Path) -> Path:
    """The folder that other programs take the champions of a store from."""
    named = os.environ.get("FT_PIPELINE_PUBLISHED")
    return project_root() / named if named else store_root.parent / "published"


def device_name() -> str:
    """The device to train on where none is named."""
    return os.environ.get("FT_PIPELINE_DEVICE") or "auto"


def lock_folder() -> Path:
    """The machine's folder of device locks."""
    return Path(os.environ.get("FT_PIPELINE_LOCK_DIR") or default_lock_dir())


def dagster_home() -> Path | None:
    """Dagster's folder, if there is one."""
    named = os.environ.get("DAGSTER_HOME")
    return Path(named) if named else None


def read_variable(name: str) -> str | None:
    """A variable that a configuration file refers to by its name."""
    return os.environ.get(name) or None


def own_folders(store_root: Path) -> tuple[Path, ...]:
    """Folders that the pipeline writes, which are no data."""
    return store_root, published_folder(store_root)


def alert_settings() -> AlertSettings:
    """Who is told of runs.

    Raises:
        AlertError: the variables are wrong.
    """
    return read_settings(os.environ)
