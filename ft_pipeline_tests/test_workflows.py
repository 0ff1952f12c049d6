"""The workflow files of GitHub Actions, and the commands of the one that fine-tunes, run as GitHub runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline_tests.ci_run import materialize
from ft_pipeline_tests.conftest import PROJECT
from ft_pipeline_tests.needs import do_without, need_program
from ft_pipeline_tests.user_project import EASY_EVALUATION, RECIPE, ROW

WORKFLOWS = sorted((PROJECT / ".github/workflows").glob("*.yml"))
STAGES = ("raw_dataset", "validated_dataset", "trained_adapter", "merged_model", "gguf_model", "evaluation_report")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "linter",
    [("check-jsonschema", "--builtin-schema", "vendor.github-workflows"), ("zizmor", "--offline", "--no-progress")],
    ids=lambda command: command[0],
)
def test_linters_find_nothing_in_a_workflow(workflow: Path, linter: tuple[str, ...]) -> None:
    program = Path(sys.executable).with_name(linter[0])
    done = subprocess.run([program, *linter[1:], workflow], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_their_commit(workflow: Path) -> None:
    used = re.findall(r"uses: (.*)", workflow.read_text())
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action)] == []


def test_a_failed_set_up_is_not_followed_by_a_search_for_the_report() -> None:
    (job,) = yaml.safe_load((PROJECT / ".github/workflows/fine-tune.yml").read_text())["jobs"].values()
    steps = {step["name"]: step for step in job["steps"]}
    made = steps["Materialize"]["id"]
    asked = steps["Find the report"]["if"]
    assert asked == f"(success() || failure()) && steps.{made}.conclusion != 'skipped'"


@dataclass(frozen=True)
class Checkout:
    """A clone with a user's recipe in it, where the workflow has run, and no DAGSTER_HOME."""

    root: Path
    environment: dict[str, str]
    temporary: Path
    summary: str

    @property
    def store(self) -> ArtifactStore:
        """What was made."""
        return ArtifactStore(self.root / "data/artifacts")

    def materialize(self, selection: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Dagster's command line there."""
        return materialize(selection, cwd=self.root, environment=self.environment | environment)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Checkout:
    """The steps of `fine-tune.yml` run once, on the user's recipe."""
    folder = tmp_path_factory.mktemp("ci")
    root, temporary, summary = folder / "checkout", folder / "temporary", folder / "summary.md"
    clone(root, tiny_base)
    temporary.mkdir()
    runner = {"RUNNER_TEMP": str(temporary), "GITHUB_STEP_SUMMARY": str(summary), "PYTHONPATH": str(root)}
    (job,) = yaml.safe_load((PROJECT / ".github/workflows/fine-tune.yml").read_text())["jobs"].values()
    known = {"inputs.recipe": "mine"}
    settings = {name: fill_in(value, known) for name, value in job["env"].items()}
    machine = {"FT_PIPELINE_DEVICE": "cpu", "FT_PIPELINE_LOCK_DIR": str(folder / "locks")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER", "FT_PIPELINE"))}
    environment = kept | runner | settings | machine
    for step in job["steps"]:
        if "run" in step:
            run_as_github(step, root, environment)
    return Checkout(root, environment, temporary, summary.read_text())


def clone(root: Path, base: Path) -> None:
    """A fresh clone of this project, set up, with a recipe, data and a base of the user's own."""
    git = need_program("git", install="apt-get install git")
    if not (PROJECT / ".git").exists():
        do_without("this folder is no clone of the repository")
    subprocess.run([git, "clone", "--quiet", PROJECT, root], check=True)
    (root / "data/mine").mkdir()
    (root / "data/mine/rows.jsonl").write_text("".join(ROW % (number, number) for number in range(20)))
    shutil.copytree(base, root / "data/models/tiny")
    own = {
        "base_model": {"source": "data/models/tiny"},
        "dataset": RECIPE["dataset"] | {"sources": ["data/mine/*.jsonl"]},
    }
    (root / "recipes/mine.yaml").write_text(yaml.safe_dump(RECIPE | own | {"evaluation": EASY_EVALUATION}))
    author = ["-c", "user.name=A user", "-c", "user.email=user@example.org"]
    subprocess.run([git, "add", "--all"], cwd=root, check=True)
    subprocess.run([git, *author, "commit", "--quiet", "--message", "feat: our own recipe"], cwd=root, check=True)
    # The environment of this test run is taken for the clone's: nothing that it is made from may be newer.
    for path in [*root.glob("*"), *(root / "scripts").glob("*")]:
        os.utime(path, (0, 0))
    (root / ".venv").symlink_to(PROJECT / ".venv")
    (root / ".git/info/exclude").write_text(".venv\n")  # which is a folder elsewhere, and ignored as one
    make = need_program("make", install="apt-get install make")
    assert subprocess.run([make, "--question", ".venv/.ready"], cwd=root, check=False).returncode == 0


def fill_in(value: str, known: dict[str, str]) -> str:
    """What GitHub makes of `${{ a || b || 'c' }}`: the first that is not empty."""

    def choose(found: re.Match[str]) -> str:
        words = [word.strip() for word in found[1].split("||")]
        values = (word[1:-1] if word.startswith("'") else known.get(word, "") for word in words)
        return next(filter(None, values), "")

    return re.sub(r"\$\{\{(.*?)\}\}", choose, value)


def run_as_github(step: dict[str, Any], root: Path, environment: dict[str, str]) -> None:
    """Run a step as a runner on Linux does."""
    assert "${{" not in step["run"]
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{step['name']}: {done.stdout[-2000:]}{done.stderr[-6000:]}"


@pytest.mark.slow
def test_the_workflow_leaves_the_report_and_its_summary_although_the_base_stays(checkout: Checkout) -> None:
    assert "mine" in (checkout.temporary / "report/report.html").read_text()
    assert checkout.summary.startswith("# ❌ Do not publish: mine\n")


@pytest.mark.slow
def test_a_run_leaves_nothing_in_the_checkout_that_git_shows(checkout: Checkout) -> None:
    command = [need_program("git", install="apt-get install git"), "status", "--porcelain"]
    assert subprocess.run(command, cwd=checkout.root, capture_output=True, check=True).stdout == b""


@pytest.mark.slow
def test_the_same_again_without_a_home_builds_nothing(checkout: Checkout) -> None:
    before = {artifact.path: artifact.manifest.created_at for artifact in checkout.store.list_artifacts()}
    done = checkout.materialize("*")
    assert done.returncode == 0, done.stderr[-4000:]
    assert {artifact.path: artifact.manifest.created_at for artifact in checkout.store.list_artifacts()} == before
    assert all(re.search(rf" - {stage} \w+: reused", done.stderr) for stage in STAGES)


@pytest.mark.slow
def test_one_asset_is_built_from_what_other_runs_made_in_a_home_that_knows_none_of_them(
    checkout: Checkout, tmp_path: Path, project: Path
) -> None:
    shutil.copy(project / "dagster.yaml", tmp_path)
    shutil.rmtree(checkout.root / "data/artifacts/merged_model")
    done = checkout.materialize("merged_model", DAGSTER_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr[-4000:]
    assert re.search(r" - merged_model \w+: built in", done.stderr)
