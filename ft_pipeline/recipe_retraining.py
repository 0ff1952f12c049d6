"""The recipe's part on training again when new data has come."""

from __future__ import annotations

from zoneinfo import available_timezones

from pydantic import Field, field_validator

from ft_pipeline.cron import check_cron
from ft_pipeline.recipe_section import Section, Share


class RetrainingSection(Section):
    """When new data starts a run by itself; both ways are off until they are turned on in Dagster."""

    quiet_seconds: float = Field(
        60, ge=0, le=86_400, description="A file is taken when it, and all others, have not changed for this long."
    )
    longest_wait_minutes: float = Field(
        60,
        ge=0,
        le=525_600,
        description="Files that go on changing, or do not end with a whole row, hold up the others for this long.",
    )
    min_new_rows: int = Field(
        1,
        ge=0,
        le=1_000_000_000,
        description="Training rows that were in no file of the last data set that was trained on. 0: any change of the "
        "files counts, one that takes rows away too.",
    )
    min_hours_between_runs: float = Field(
        0,
        ge=0,
        le=8_760,
        description="After a run that came to a verdict on a model, new data waits this long, from its start on.",
    )
    max_retries: int = Field(2, ge=0, le=20, description="How often a run that failed is started again on its data.")
    retry_minutes: float = Field(
        10, ge=0, le=10_080, description="Time between a failure and the first retry; doubled for each one after it."
    )
    cron: str = Field(
        "0 2 * * *", max_length=200, description="When the schedule looks: minute, hour, day, month, weekday."
    )
    timezone: str = Field("UTC", description="Of the cron expression, e.g. Europe/Berlin.")
    replay_share: Share = Field(
        1.0,
        description="Share of the older training rows that are trained on again beside all new ones. Older rows are "
        "those of the data set that was trained on before.",
    )

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str) -> str:
        return check_cron(cron)

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, timezone: str) -> str:
        if timezone not in available_timezones():
            raise ValueError(f"no time zone is called {timezone!r}; give one of the tz database, such as Europe/Berlin")
        return timezone
