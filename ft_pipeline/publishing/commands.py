"""`python -m ft_pipeline rollback|history [RECIPE]`."""

from __future__ import annotations

import logging

import click

from ft_pipeline import environment
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.ownership import require_owner
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.publishing.alias import AliasState, JudgedModel, alias_folder, read_state
from ft_pipeline.publishing.publication import list_events
from ft_pipeline.publishing.publisher import Publisher
from ft_pipeline.recipe import Recipe
from ft_pipeline.recipe_file import find_recipe, load_recipe


@click.command()
@click.argument("recipe", required=False)
@click.option("--to", metavar="FINGERPRINT", help="A model that was champion, by the beginning of its fingerprint.")
def rollback(recipe: str | None, to: str | None) -> None:
    """Go back to a recipe's champion before, or to any that ever was (FT_PIPELINE_RECIPE, if none is named)."""
    require_owner(environment.artifacts_folder())
    store, loaded = ArtifactStore(environment.artifacts_folder(), tell=click.echo), _load(recipe)
    reporter = LogReporter(logging.getLogger(__name__))
    publisher = Publisher(store, environment.published_folder(store.root), loaded, reporter)
    done = publisher.roll_back(to)
    click.echo(f"{loaded.name}: {done.reason}")
    if done.champion:
        click.echo(f"champion: {_describe(done.champion)}")
    if done.folder:
        click.echo(f"published: {done.folder} -> {done.folder.readlink()}")
    for sentence in done.deliveries:
        click.echo(sentence)


@click.command()
@click.argument("recipe", required=False)
def history(recipe: str | None) -> None:
    """Say who is a recipe's champion, challenger and best, and how that came to be (FT_PIPELINE_RECIPE, if none)."""
    store_root, name = environment.artifacts_folder(), _load(recipe).name
    state = read_state(alias_folder(store_root), name)
    if not state.history:
        click.echo(f"{name}: nothing was judged yet")
        return
    click.echo(f"{name}:")
    _say_who(state)
    for row in list_events(state, shown=None):
        said = f"  score {row['score']:.4f}" if row["score"] is not None else ""
        by = f"run {row['run']}" if row["run"] else "by hand"
        click.echo(f"{row['at']}  {row['what']:<12} {row['model']}{said}  against {row['against'] or 'none'}  {by}")
        click.echo(f"    {row['reason']}")


def _load(recipe: str | None) -> Recipe:
    return load_recipe(find_recipe(recipe or environment.recipe_name(), environment.project_root()))


def _say_who(state: AliasState) -> None:
    for role, model in (("champion", state.champion), ("challenger", state.challenger), ("best", state.best)):
        click.echo(f"{role + ':':<12} {_describe(model) if model else 'none'}")
    for receiver, delivery in state.deliveries.items():
        said = f"failed, {delivery.fault}" if delivery.fault else f"{delivery.gguf_model} since {delivery.at:%F %H:%M}"
        click.echo(f"{receiver}: {said}")


def _describe(model: JudgedModel) -> str:
    score = "unknown" if model.score is None else f"{model.score:.4f}"
    return f"{model.gguf_model}  score {score}  since {model.since:%Y-%m-%d %H:%M} UTC"
