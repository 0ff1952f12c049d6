from __future__ import annotations

import dagster as dg
import pytest

from ft_pipeline.defs.failures import failing_plainly
from ft_pipeline.errors import DatasetError


def test_an_error_for_people_is_a_failure_with_its_words_and_its_kind_and_without_what_caused_it() -> None:
    @failing_plainly
    def asset() -> None:
        raise DatasetError("mend the rows") from KeyError("row")

    with pytest.raises(dg.Failure, match=r"^mend the rows$") as caught:
        asset()
    assert caught.value.metadata["kind"] == dg.MetadataValue.text("DatasetError")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_fault_of_the_code_stays_what_it_is() -> None:
    @failing_plainly
    def asset() -> None:
        raise KeyError("row")

    with pytest.raises(KeyError):
        asset()
