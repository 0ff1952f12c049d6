"""The command line: `python -m ft_pipeline --help`. Dagster materializes the assets."""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path
from typing import cast

import click

from ft_pipeline import environment
from ft_pipeline.alerts.commands import alert, alert_test
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.command_line import run_command
from ft_pipeline.doctor import examine
from ft_pipeline.errors import CorruptArtifact
from ft_pipeline.finetuning.cards import CARDS, find_card
from ft_pipeline.finetuning.plan_table import TableFormat, render_grid, render_recipe
from ft_pipeline.operations.commands import backup, gc, restore
from ft_pipeline.pin import pin
from ft_pipeline.pipeline import Pipeline
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.publishing.commands import history, rollback
from ft_pipeline.recipe_file import find_recipe, load_recipe
from ft_pipeline.recipe_reference import render_reference
from ft_pipeline.run import Run


@click.group()
def main() -> None:
    """Look after the pipeline's machine and its artifacts."""


@main.command()
def doctor() -> None:
    """Say what is missing or mismatched on this machine."""
    where = environment.project_root(), environment.recipe_name(), environment.artifacts_folder()
    is_well = True
    for finding in examine(*where, environment.device_name()):
        click.echo(f"{'FIX' if finding.fix else ' ok'}  {finding.subject}: {finding.state}")
        if finding.fix:
            click.echo(f"     -> {finding.fix}")
            is_well = False
    sys.exit(not is_well)


@main.command()
@click.option("--copy-to", type=click.Path(path_type=Path), help="A folder that gets a copy: HTML, Markdown, JSON.")
def report(copy_to: Path | None) -> None:
    """Say where the recipe's evaluation report is, and what it found."""
    root = environment.project_root()
    run = Run(lambda: load_recipe(find_recipe(environment.recipe_name(), root)), root, environment.artifacts_folder())
    artifact = Pipeline(run, LogReporter(logging.getLogger(__name__))).find_report()
    click.echo(artifact.manifest.summary.figures["verdict"])
    for row in artifact.manifest.summary.tables["gate"]:
        click.echo(f"  {'kept  ' if row['passed'] else 'broken'}  {row['rule']}: {row['detail']}")
    click.echo(f"report: {artifact.path / artifact.manifest.summary.files['report']}")
    if copy_to:
        copy_to.mkdir(parents=True, exist_ok=True)
        for file in artifact.path.glob("report.*"):
            shutil.copy2(file, copy_to)


@main.command()
def verify() -> None:
    """Compare every artifact's files with its manifest."""
    damaged: list[str] = []
    store, whole = ArtifactStore(environment.artifacts_folder(), tell=damaged.append), 0
    for artifact in store.list_artifacts():
        try:
            store.verify(artifact)
            whole += 1
        except CorruptArtifact as err:
            damaged.append(str(err))
    for message in damaged:
        click.echo(message)
    click.echo(f"{whole} artifacts are whole, {len(damaged)} are damaged")
    sys.exit(bool(damaged))


@main.command()
@click.argument("recipe", required=False)
@click.option("--card", help=f"One card instead of each: {', '.join(CARDS)}.")
@click.option("--all", "is_grid", is_flag=True, help="Every card by models of 7B to 70B, at the guide's settings.")
@click.option("--format", "table_format", type=click.Choice(["plain", "markdown"]), default="plain")
def plan(recipe: str | None, card: str | None, is_grid: bool, table_format: str) -> None:
    """Predict memory, speed and hours of a recipe's training (FT_PIPELINE_RECIPE, if none is named)."""
    shape = cast("TableFormat", table_format)
    if is_grid:
        click.echo(render_grid(shape))
        return
    root = environment.project_root()
    loaded = load_recipe(find_recipe(recipe or environment.recipe_name(), root))
    click.echo(render_recipe(loaded, root, find_card(card) if card else None, shape))


main.add_command(alert)
main.add_command(alert_test)
main.add_command(pin)
main.add_command(rollback)
main.add_command(history)
main.add_command(gc)
main.add_command(backup)
main.add_command(restore)


@main.command()
def recipe_reference() -> None:
    """Print docs/recipe.md, the reference of all fields."""
    click.echo(render_reference(), nl=False)


if __name__ == "__main__":
    run_command(main)
