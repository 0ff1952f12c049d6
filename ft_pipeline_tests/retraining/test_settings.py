from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_pipeline.errors import RecipeError
from ft_pipeline.recipe_file import load_recipe
from ft_pipeline_tests.user_project import RECIPE


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("cron", "every night", "a cron expression has five fields"),
        ("cron", "61 * * * *", "a cron expression has five fields"),
        ("cron", "@daily", "a cron expression has five fields"),
        ("cron", "0 2 30 2 *", "must name a day that comes, '0 2 30 2 .' names none"),
        ("cron", "0 2 31 2,4 *", "must name a day that comes"),
        ("cron", "0 2 1W * *", "a cron expression has five fields of numbers"),
        ("cron", "*/90 * * * *", "a cron expression has five fields of numbers"),
        ("cron", "0 2 * * 1-1", "a cron expression has five fields of numbers"),
        ("cron", "R R * * *", "a cron expression has five fields of numbers"),
        ("cron", "0 2 * * 1#2", "a cron expression has five fields of numbers"),
        ("cron", ",".join(["0"] * 200) + " 2 * * *", "at most 200 characters"),
        ("quiet_seconds", 1e12, "less than or equal to 86400 .got 1000000000000.0"),
        ("longest_wait_minutes", 1e12, "less than or equal to 525600"),
        ("min_new_rows", 10**12, "less than or equal to 1000000000"),
        ("min_hours_between_runs", 1e12, "less than or equal to 8760"),
        ("retry_minutes", 1e12, "less than or equal to 10080"),
        ("timezone", "Mars/Olympus", "no time zone is called 'Mars/Olympus'"),
        ("replay_share", 1.5, "less than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_rule(tmp_path: Path, field: str, value: Any, words: str) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(RECIPE | {"retraining": {field: value}}))
    with pytest.raises(RecipeError, match=rf"mine.yaml:\d+: retraining.{field}: .*{words}"):
        load_recipe(tmp_path / "mine.yaml")
