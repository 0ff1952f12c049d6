"""How aliases move: each move gives a new state, and the history says what was there and may come back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ft_pipeline.errors import PublicationError
from ft_pipeline.evaluation.request import Opponents
from ft_pipeline.publishing.alias import AliasState, Event, JudgedModel, list_recipes, read_state

SHOWN_CHARS = 12


@dataclass(frozen=True)
class _Replay:
    """What the history comes to.

    Attributes:
        before: By champion, the one that it took the place of.
        reigns: All champions that ever were, the one that reigned last first.
        barred: Those that a person has gone back from, with the event.
    """

    before: Mapping[str, str | None]
    reigns: tuple[JudgedModel, ...]
    barred: Mapping[str, Event]


def promote(state: AliasState, model: JudgedModel, run: str | None, reason: str, *, is_best: bool) -> AliasState:
    """The state after a model has become champion; `is_best`: it was found at least as good as the best one ever.

    Raises:
        PublicationError: the champion is another one than the model was scored against.
    """
    present = state.champion.gguf_model if state.champion else None
    if present != model.against:
        raise PublicationError(
            f"the report compares with the champion {model.against or 'none'}, and it is {present or 'none'} now: "
            "another run published meanwhile. Run evaluation_report again."
        )
    best = model if is_best or state.best is None else state.best
    event = Event(at=model.since, kind="promoted", model=model, run=run, reason=reason)
    return state.model_copy(
        update={"champion": model, "challenger": None, "best": best, "history": (*state.history, event)}
    )


def reject(state: AliasState, model: JudgedModel, run: str | None, reason: str) -> AliasState:
    """The state after a model was not let in; the same if its report was acted on already."""
    seen = any(event.kind == "rejected" and _is_same_report(event.model, model) for event in state.history)
    if seen:
        return state
    event = Event(at=model.since, kind="rejected", model=model, run=run, reason=reason)
    return state.model_copy(update={"challenger": model, "history": (*state.history, event)})


def roll_back(state: AliasState, target: JudgedModel, reason: str) -> AliasState:
    """The state after a person has gone back, or forward again, to a model that was champion."""
    event = Event(at=datetime.now(UTC), kind="rolled_back", model=target, run=None, reason=reason)
    moved = state.model_copy(update={"champion": target, "history": (*state.history, event)})
    # What a person went back from is no mark for those that come.
    is_barred = moved.best is not None and find_bar(moved, moved.best.gguf_model) is not None
    return moved.model_copy(update={"best": target}) if is_barred else moved


def find_opponents(state: AliasState, gguf_model: str) -> Opponents:
    """Whom a model is, or as the champion was, scored against."""
    champion, best = state.champion, state.best
    if champion and champion.gguf_model == gguf_model:
        return Opponents(champion=champion.against, best=champion.against_best)
    present = champion.gguf_model if champion else None
    highest = best.gguf_model if best and best.gguf_model not in {present, gguf_model} else None
    return Opponents(champion=present, best=highest)


def find_target(state: AliasState, recipe_name: str, prefix: str | None) -> JudgedModel:
    """The champion that a rollback goes to.

    Args:
        state: The recipe's.
        recipe_name: For the error.
        prefix: Beginning of the fingerprint of one that was champion; None: the one before the present one.

    Raises:
        PublicationError: there is none, or more than one.
    """
    if state.champion is None:
        raise PublicationError(f"{recipe_name} has no champion, so there is nothing to go back from.")
    replay = _replay(state)
    if prefix is None:
        before = replay.before.get(state.champion.gguf_model)
        found = [model for model in replay.reigns if model.gguf_model == before]
        if not found:
            raise PublicationError(
                f"{recipe_name} had no champion before {state.champion.gguf_model}. make history shows all there were."
            )
        return found[0]
    found = [model for model in replay.reigns if model.gguf_model.startswith(prefix)]
    if len(found) != 1:
        those = ", ".join(model.gguf_model for model in found or replay.reigns)
        raise PublicationError(
            f"a rollback needs the fingerprint, or its beginning, of one model that was champion of {recipe_name}; "
            f"{prefix!r} is {'the beginning of several' if found else 'of none'}. Take one of: {those}."
        )
    return found[0]


def find_bar(state: AliasState, gguf_model: str) -> Event | None:
    """The rollback that a model is kept out by, if it is."""
    return _replay(state).barred.get(gguf_model)


def list_earlier(state: AliasState) -> list[JudgedModel]:
    """All models that were champion and are not, the one that reigned last first."""
    present = state.champion.gguf_model if state.champion else None
    return [model for model in _replay(state).reigns if model.gguf_model != present]


def list_kept(state: AliasState, keep_champions: int) -> list[JudgedModel]:
    """The models whose files stay: those with an alias, and the last earlier champions."""
    named = [state.champion, state.best, state.challenger, *list_earlier(state)[:keep_champions]]
    # A model can be judged by several reports, and each of these belongs to who has it.
    return list({(model.gguf_model, model.evaluation_report): model for model in named if model}.values())


def list_published(folder: Path, keep_champions: Mapping[str, int], default: int) -> Iterator[tuple[str, str]]:
    """Asset and fingerprint of what all recipes keep, and of whom their champions were scored against.

    Args:
        folder: The aliases' folder.
        keep_champions: How many earlier champions stay, by recipe.
        default: The same for a recipe that is not among these.
    """
    for name in list_recipes(folder):
        state = read_state(folder, name)
        for model in list_kept(state, keep_champions.get(name, default)):
            yield "gguf_model", model.gguf_model
            yield "evaluation_report", model.evaluation_report
        if champion := state.champion:
            for opponent in (champion.against, champion.against_best):
                if opponent:
                    yield "gguf_model", opponent


def _replay(state: AliasState) -> _Replay:
    before: dict[str, str | None] = {}
    reigns: dict[str, JudgedModel] = {}
    barred: dict[str, Event] = {}
    present: str | None = None
    for event in state.history:
        name = event.model.gguf_model
        if event.kind == "rejected":
            continue
        if event.kind == "promoted":
            before[name] = present
        else:
            stays = _chain(before, name)
            # Going back bars all that came between; going forward bars nothing, and lifts the bar.
            barred |= dict.fromkeys(_chain(before, present).keys() - stays.keys(), event)
            barred = {model: bar for model, bar in barred.items() if model not in stays}
        reigns.pop(name, None)
        reigns[name] = event.model
        present = name
    return _Replay(before, tuple(reversed(reigns.values())), barred)


def _chain(before: Mapping[str, str | None], name: str | None) -> dict[str, None]:
    """A champion and those before it, in order; one that came back stands in it once."""
    chain: dict[str, None] = {}
    while name is not None and name not in chain:
        chain[name] = None
        name = before.get(name)
    return chain


def _is_same_report(one: JudgedModel, other: JudgedModel) -> bool:
    return (one.gguf_model, one.evaluation_report) == (other.gguf_model, other.evaluation_report)
