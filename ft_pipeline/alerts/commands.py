"""`python -m ft_pipeline alert-test|alert`."""

from __future__ import annotations

import click

from ft_pipeline import environment
from ft_pipeline.alerts.alert import Alert, clean
from ft_pipeline.alerts.delivery import deliver
from ft_pipeline.alerts.outbox import list_receivers
from ft_pipeline.alerts.settings import SMTP, WEBHOOK
from ft_pipeline.errors import AlertError


@click.command()
def alert_test() -> None:
    """Send a trial message to everybody who is told of runs."""
    _tell(Alert("failure", "ft_pipeline: a trial message", ("Alerts of this machine arrive here.",)))


@click.command()
@click.argument("text")
def alert(text: str) -> None:
    """Send TEXT to everybody who is told of runs: of what else fails on this machine, as a nightly backup."""
    _tell(Alert("failure", "ft_pipeline: something else than a run has failed", (clean(text),)))


def _tell(message: Alert) -> None:
    settings = environment.alert_settings()
    if not settings.has_receiver:
        raise AlertError(f"somebody must be there to be told; no receiver is set. Set {WEBHOOK} or {SMTP}.")
    faults: list[str] = []
    for receiver in list_receivers(settings):
        try:
            left_out = deliver(message, receiver)
            click.echo(f"{receiver.name}: told")
            faults += [f"{receiver.name}: {left_out}"] if left_out else []
        except AlertError as err:
            faults.append(f"{receiver.name}: {err}")
    if faults:
        raise AlertError("\n".join(faults))
