from __future__ import annotations

import dagster as dg

from ft_pipeline.defs.metadata import publication_to_result
from ft_pipeline_tests.publishing.small_models import Publishing


def test_dagster_shows_the_folder_the_score_and_the_last_ten_events(publishing: Publishing) -> None:
    for number in range(12):
        publishing.publish(number)
    result = publication_to_result(publishing.reject(20))
    shown = {
        name: value.value for name, value in (result.metadata or {}).items() if isinstance(value, dg.MetadataValue)
    }
    assert shown["published"] is False
    assert shown["reason"] == "level with the champion"
    assert (shown["score"], shown["champion_score"]) == (2.0, 1.1)
    assert shown["previous_score"] == 1.1
    assert shown["champion"] == publishing.champion
    assert shown["published_folder"] == str(publishing.link)
    assert shown["gguf"] == str(publishing.link / "demo-Q4_K_M.gguf")
    assert shown["modelfile"] == str(publishing.link / "Modelfile")
    assert shown["deliveries"] == "none"
    table = (result.metadata or {})["table: history"]
    assert isinstance(table, dg.TableMetadataValue)
    rows = [record.data for record in table.records]
    assert len(rows) == 10
    assert (rows[0]["what"], rows[0]["model"]) == ("rejected", publishing.fingerprint(20)[:12])
    assert result.data_version == dg.DataVersion(publishing.fingerprint(11))


def test_dagster_shows_the_score_of_the_champion_before(publishing: Publishing) -> None:
    shown = [publication_to_result(publishing.publish(number)).metadata or {} for number in (1, 2)]
    scores = [(found["score"], found["previous_score"]) for found in shown]
    assert scores == [
        (dg.MetadataValue.float(0.1), dg.MetadataValue.null()),
        (dg.MetadataValue.float(0.2), dg.MetadataValue.float(0.1)),
    ]


def test_dagster_shows_a_rejection_where_nothing_was_ever_published(publishing: Publishing) -> None:
    result = publication_to_result(publishing.reject(1))
    assert "champion" not in (result.metadata or {})
    assert result.data_version == dg.DataVersion("none")
