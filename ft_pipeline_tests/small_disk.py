"""A stage builds an artifact on a disk of some kilobytes, which is a tmpfs in a mount namespace of its own.

python -m ft_pipeline_tests.small_disk STORE STAGE MODEL REQUEST    # in the namespace, by itself

Prints what was raised and what is left in the store, as JSON.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ft_pipeline.artifact import ArtifactKey, Written
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.processes.launcher import run_stage
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.summary import Summary

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def build_on_small_disk(store: Path, kilobytes: int, stage: str, request: BaseModel) -> dict[str, Any]:
    """Run a stage there.

    Args:
        store: Where the disk is mounted.
        kilobytes: Its size.
        stage: As `module:name`.
        request: The stage's; its `out_dir` is replaced by the artifact's draft.
    """
    store.mkdir()
    model = f"{type(request).__module__}:{type(request).__qualname__}"
    inside = [sys.executable, "-m", __name__, str(store), stage, model, request.model_dump_json()]
    mount = f'mount -t tmpfs -o size={kilobytes}k none "$1" && shift && exec "$@"'
    done = subprocess.run(
        [*NAMESPACE, "sh", "-c", mount, "sh", str(store), *inside],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def can_mount() -> bool:
    """Whether this machine lets a user have namespaces."""
    command = [*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _main(root: str, function: str, model: str, request: str) -> None:
    store = ArtifactStore(Path(root))
    earlier = store.build(ArtifactKey("earlier", {}, {}), _write_earlier)
    module, _, name = model.partition(":")
    __import__(module)
    wanted: BaseModel = getattr(sys.modules[module], name).model_validate_json(request)
    key = ArtifactKey("stage", {}, {})

    def write(draft: Path) -> Written:
        result = run_stage(
            function,
            wanted.model_copy(update={"out_dir": draft}),
            reporter=LogReporter(logging.getLogger("stage")),
            log_path=Path("/dev/null"),
        )
        return Written(result.summary)

    raised = message = None
    try:
        store.build(key, write)
    except Exception as err:  # noqa: BLE001 - whatever it is, the test wants to see it
        raised, message = type(err).__name__, str(err)
    store.verify(earlier)
    left = sorted(path.relative_to(root).as_posix() for path in Path(root).rglob("*") if path.is_file())
    sys.stdout.write(json.dumps({"raised": raised, "message": message, "left": left}) + "\n")


def _write_earlier(draft: Path) -> Written:
    (draft / "file").write_text("from an earlier run")
    return Written(Summary())


if __name__ == "__main__":
    _main(*sys.argv[1:])
