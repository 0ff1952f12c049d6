"""Publishing a model, in an order that holds at whatever step it is cut off.

A version is laid and flushed and a link to it laid beside the link, the aliases are replaced (from then on it is
champion), the link is swapped, old versions go, other programs are told. Each publication, rejection and rollback ends
with the last three, so the next one does what a killed one has left.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ft_pipeline.artifact import Artifact
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.errors import ArtifactError, PublicationError
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.publishing import history
from ft_pipeline.publishing.alias import (
    AliasState,
    JudgedModel,
    alias_folder,
    alias_lock,
    read_state,
    sweep_drafts,
    write_state,
)
from ft_pipeline.publishing.champion_files import (
    ASSET,
    describe_files,
    find_champion_files,
    has_files,
    write_champion,
)
from ft_pipeline.publishing.delivery import Receiver, deliver
from ft_pipeline.publishing.folder import PublishedFolder
from ft_pipeline.publishing.hub_push import HubReceiver
from ft_pipeline.publishing.ollama import OllamaReceiver
from ft_pipeline.publishing.publication import Judgement, Publication, list_events
from ft_pipeline.quantization.runtime_files import MODELFILE
from ft_pipeline.recipe import Recipe
from ft_pipeline.run_record import RunFolder

ACCEPTED = "it passed the gate and is better"


class Publisher:
    """Moves the aliases of one recipe.

    Args:
        store: Where its models are.
        published: The folder that other programs take champions from.
        recipe: Its settings for what stays and who is told.
        reporter: Told of what could not be delivered.
        run: The run that publishes; None: a person.
    """

    def __init__(
        self, store: ArtifactStore, published: Path, recipe: Recipe, reporter: Reporter, run: str | None = None
    ) -> None:
        self.folder = PublishedFolder(published, store.root, recipe.name)
        self._store = store
        self._recipe = recipe
        self._reporter = reporter
        self._run = run
        self._aliases = alias_folder(store.root)

    def publish(self, challenger: Artifact, judgement: Judgement, reason: str = ACCEPTED) -> Publication:
        """Make a model the champion, unless somebody else became it since the report was made.

        Args:
            challenger: The `gguf_model`, verified.
            judgement: Of the report that let it through.
            reason: Why.

        Raises:
            PublicationError: the champion is another one than the report compares with, or the folder is not to be had.
        """
        model = _judged(challenger, judgement)
        with alias_lock(self._aliases, self._recipe.name):
            state = before = self._read()
            refusal = self._find_refusal(state, model.gguf_model)
            if refusal is None:
                state = history.promote(state, model, self._run, reason, is_best=judgement.is_best)
                self._lay(challenger, model)
                self.folder.prepare_link(model.gguf_model)
                self._write(state)
            is_settled = self._settle(state)
        return self._judge(self._finish(refusal is None, refusal or reason, is_settled), judgement, before)

    def reject(self, challenger: Artifact, judgement: Judgement, reason: str) -> Publication:
        """Write down that a model was not let in. Arguments as of `publish`."""
        model = _judged(challenger, judgement)
        with alias_lock(self._aliases, self._recipe.name):
            state = before = self._read()
            if not (state.champion and state.champion.gguf_model == model.gguf_model):
                state = history.reject(state, model, self._run, reason)
            if state is not before:
                self._write(state)
            is_settled = self._settle(state)
        return self._judge(self._finish(False, reason, is_settled), judgement, before)

    def roll_back(self, prefix: str | None = None) -> Publication:
        """Go back to an earlier champion, or forward again, as it was to the byte.

        Args:
            prefix: The beginning of its fingerprint; None: the one before the present one.

        Raises:
            PublicationError: there is none, or its files are gone or damaged. Nothing was changed then.
        """
        with alias_lock(self._aliases, self._recipe.name):
            state = self._read()
            moved, reason = False, "a rollback that was cut off is done now; the next one goes further back"
            if prefix is not None or not self._is_half_done(state):
                state, moved, reason = self._move(state, history.find_target(state, self._recipe.name, prefix))
            is_settled = self._settle(state)
        done = self._finish(moved, reason, is_settled)
        return replace(done, score=done.champion.score if done.champion else None)

    def _move(self, state: AliasState, target: JudgedModel) -> tuple[AliasState, bool, str]:
        present = state.champion
        if present is None or present.gguf_model == target.gguf_model:
            return state, False, "it is the champion already"
        artifact = self._require(state, target)
        self._lay(artifact, target)
        self.folder.prepare_link(target.gguf_model)
        reason = f"by hand, from {present.gguf_model}"
        with RunFolder(self._store.root).guard():  # retention must not take it at this moment
            self._store.load(ASSET, target.gguf_model)
            state = history.roll_back(state, target, reason)
            self._write(state)
        return state, True, f"rolled back {reason}"

    def _find_refusal(self, state: AliasState, gguf_model: str) -> str | None:
        if state.champion and state.champion.gguf_model == gguf_model:
            return "it is the champion already"
        if bar := history.find_bar(state, gguf_model):
            return (
                f"it was gone back from on {bar.at:%Y-%m-%d %H:%M} UTC, and no run publishes it again; make rollback "
                f"TO={gguf_model[: history.SHOWN_CHARS]} does"
            )
        return None

    def _require(self, state: AliasState, target: JudgedModel) -> Artifact:
        try:
            return find_champion_files(self._store, self.folder, target.gguf_model).artifact
        except ArtifactError as err:
            others = [model.gguf_model for model in history.list_earlier(state) if model != target]
            whole = [name for name in others if has_files(self._store, self.folder, name)]
            raise PublicationError(
                f"{err} Nothing was changed. To be gone back to: {', '.join(whole) or 'none'}."
            ) from err

    def _is_half_done(self, state: AliasState) -> bool:
        moves = [event for event in state.history if event.kind != "rejected"]
        is_rollback = bool(moves) and moves[-1].kind == "rolled_back"
        champion = state.champion.gguf_model if state.champion else None
        return is_rollback and self.folder.current not in {None, champion}

    def _lay(self, artifact: Artifact, model: JudgedModel) -> None:
        self.folder.claim()
        self.folder.lay(artifact, write_champion(self._recipe.name, model, artifact))

    def _settle(self, state: AliasState) -> bool:
        """Bring the folder to what the aliases say; whether there is a whole champion to show."""
        if state.champion is None:
            return False
        try:
            artifact = find_champion_files(self._store, self.folder, state.champion.gguf_model).artifact
        except ArtifactError as err:
            self._reporter.warning(str(err))
            return False
        self._lay(artifact, state.champion)
        self.folder.point_to(state.champion.gguf_model)
        kept = history.list_kept(state, self._recipe.retention.keep_champions)
        try:
            self.folder.prune([model.gguf_model for model in kept])
            sweep_drafts(self._aliases, self._recipe.name)
        except PublicationError as err:
            self._reporter.warning(f"what is no longer needed could not be removed; the next run tries again: {err}")
        return True

    def _finish(self, published: bool, reason: str, is_settled: bool) -> Publication:
        receivers = list_receivers(self._recipe) if is_settled else []
        told = deliver(self._aliases, self._recipe.name, self.folder, receivers, self._reporter)
        state = self._read()
        done = Publication(published, reason, state.champion, deliveries=told, history=list_events(state))
        if not is_settled or state.champion is None:
            return done
        files = describe_files(self._store.load(ASSET, state.champion.gguf_model))
        link = self.folder.link
        modelfile = link / MODELFILE if (link / MODELFILE).is_file() else None
        return replace(done, folder=link, gguf=link / files.gguf.name, modelfile=modelfile)

    @staticmethod
    def _judge(done: Publication, judgement: Judgement, before: AliasState) -> Publication:
        previous = before.champion.score if before.champion else None
        return replace(done, score=judgement.score, previous_score=previous)

    def _read(self) -> AliasState:
        return read_state(self._aliases, self._recipe.name)

    def _write(self, state: AliasState) -> None:
        write_state(self._aliases, self._recipe.name, state)


def list_receivers(recipe: Recipe) -> list[Receiver]:
    """Who the recipe wants to be told of a champion."""
    settings = recipe.publishing
    receivers: list[Receiver] = []
    if settings.ollama != "never":
        name = settings.ollama_name or f"ft_pipeline-{recipe.name}"
        receivers.append(OllamaReceiver(name, required=settings.ollama == "always"))
    if settings.hub_repo:
        receivers.append(HubReceiver(settings.hub_repo, settings.hub_private))
    return receivers


def _judged(challenger: Artifact, judgement: Judgement) -> JudgedModel:
    return JudgedModel(
        gguf_model=challenger.manifest.fingerprint,
        evaluation_report=judgement.report,
        against=judgement.opponents.champion,
        against_best=judgement.opponents.best,
        since=datetime.now(UTC),
        score=judgement.score,
    )
