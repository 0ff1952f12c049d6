"""Telling other programs of the champion. A promotion stands whatever becomes of that; the next run tries again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from ft_pipeline.errors import PublicationError
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.publishing.alias import (
    Delivery,
    JudgedModel,
    alias_lock,
    delivery_lock,
    read_state,
    write_state,
)
from ft_pipeline.publishing.folder import PublishedFolder
from ft_pipeline.publishing.history import SHOWN_CHARS


@dataclass(frozen=True)
class DeliveryOutcome:
    """What has come of telling a receiver; one that is not there is skipped, and nothing is written down."""

    state: Literal["delivered", "failed", "skipped"]
    detail: str = ""


class Receiver(Protocol):
    """A program that is given the champion."""

    @property
    def name(self) -> str:
        """What it is called in the aliases: another name is another receiver."""

    def bring(self, version: Path, title: str, reporter: Reporter) -> DeliveryOutcome:
        """Give it what lies in a folder; what goes wrong there is its outcome."""


def deliver(
    aliases: Path, recipe_name: str, folder: PublishedFolder, receivers: Sequence[Receiver], reporter: Reporter
) -> tuple[str, ...]:
    """Give the present champion to each receiver that has not got it.

    One process at a time: the later of two publishers comes last, and brings who is champion then.

    Returns:
        A sentence for each receiver.
    """
    if not receivers:
        return ()
    with delivery_lock(aliases, recipe_name):
        return tuple(_deliver(aliases, recipe_name, folder, receiver, reporter) for receiver in receivers)


def _deliver(aliases: Path, recipe_name: str, folder: PublishedFolder, receiver: Receiver, reporter: Reporter) -> str:
    state = read_state(aliases, recipe_name)
    champion, known = state.champion, state.deliveries.get(receiver.name)
    if champion is None or not folder.version(champion.gguf_model).is_dir():
        return f"{receiver.name}: there is nothing to deliver"
    shown = champion.gguf_model[:SHOWN_CHARS]
    if known and known.gguf_model == champion.gguf_model and known.fault is None:
        return f"{receiver.name}: has {shown} since {known.at:%Y-%m-%d %H:%M} UTC"
    outcome = receiver.bring(folder.version(champion.gguf_model).resolve(), f"{recipe_name} {shown}", reporter)
    if outcome.state == "skipped":
        reporter.info(f"{receiver.name} is not told of {shown}: {outcome.detail}")
        return f"{receiver.name}: skipped, {outcome.detail}"
    is_failed = outcome.state == "failed"
    try:
        _write_down(aliases, recipe_name, receiver, champion, outcome.detail if is_failed else None)
    except PublicationError as err:
        reporter.warning(f"the next run of published_model tells {receiver.name} of {shown} again: {err}")
    if is_failed:
        reporter.warning(
            f"{receiver.name} could not be given {shown}: {outcome.detail}. It is published all the same; the next run "
            "of published_model tries again"
        )
        return f"{receiver.name}: failed, {outcome.detail}"
    return f"{receiver.name}: has {shown} now"


def _write_down(aliases: Path, recipe_name: str, receiver: Receiver, champion: JudgedModel, fault: str | None) -> None:
    delivery = Delivery(gguf_model=champion.gguf_model, at=datetime.now(UTC), fault=fault)
    with alias_lock(aliases, recipe_name):
        state = read_state(aliases, recipe_name)
        deliveries = {**state.deliveries, receiver.name: delivery}
        write_state(aliases, recipe_name, state.model_copy(update={"deliveries": deliveries}))
