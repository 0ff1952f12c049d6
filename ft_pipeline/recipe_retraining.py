"""The recipe's part on training again when new data has come."""

from __future__ import annotations

from zoneinfo import available_timezones

from croniter import croniter
from pydantic import Field, field_validator

from ft_pipeline.recipe_section import Section, Share

_CRON_FIELDS = 5


class RetrainingSection(Section):
    """When new data starts a run by itself; both ways are off until they are turned on in Dagster."""

    quiet_seconds: float = Field(
        60, ge=0, description="A file is taken when it, and all others, have not changed for this long."
    )
    longest_wait_minutes: float = Field(
        60,
        ge=0,
        description="Files that go on changing, or end in the middle of a row, hold up the others for this long.",
    )
    min_new_rows: int = Field(
        1,
        ge=0,
        description="Training rows that were in no file of the last data set that was trained on. 0: any change of the "
        "files counts, one that takes rows away too.",
    )
    min_hours_between_runs: float = Field(
        0,
        ge=0,
        description="After a run that came to a verdict on a model, new data waits this long, from its start on.",
    )
    max_retries: int = Field(2, ge=0, le=20, description="How often a run that failed is started again on its data.")
    retry_minutes: float = Field(
        10, ge=0, description="Time between a failure and the first retry; doubled for each one after it."
    )
    cron: str = Field("0 2 * * *", description="When the schedule looks: minute, hour, day, month, weekday.")
    timezone: str = Field("UTC", description="Of the cron expression, e.g. Europe/Berlin.")
    replay_share: Share = Field(
        1.0,
        description="Share of the older training rows that are trained on again beside all new ones. Older rows are "
        "those of the data set that was trained on before.",
    )

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str) -> str:
        if len(cron.split()) != _CRON_FIELDS or not croniter.is_valid(cron):
            raise ValueError(f"a cron expression has five fields, such as '0 2 * * *' for two at night; got {cron!r}")
        return cron

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, timezone: str) -> str:
        if timezone not in available_timezones():
            raise ValueError(f"no time zone is called {timezone!r}; give one of the tz database, such as Europe/Berlin")
        return timezone
