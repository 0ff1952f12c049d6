"""Where the errors are: by kind, by tag, by length, by field. The general set is told of elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ft_pipeline.evaluation.breakdown import ERROR_KINDS, json_field_accuracy
from ft_pipeline.evaluation.report.outcome import Outcome, RowKey
from ft_pipeline.evaluation.rows import ScoredRow

_BUCKETS = 4
_RIGHT_IN_OTHER_WORDS = ERROR_KINDS[-2]


@dataclass(frozen=True)
class Group:
    """Some rows or fields.

    Attributes:
        size: How many there are.
        counts: Label of a contestant to how many of them it has right; of a kind of error, to how many are so. Who was
            asked none of them is missing.
    """

    name: str
    size: int
    counts: Mapping[str, int]

    def share(self, label: str) -> float | None:
        """Of the group's rows, those that count."""
        return self.counts[label] / self.size if label in self.counts else None


def group_by_error(outcome: Outcome) -> list[Group]:
    """How many answers are right, and of each kind of error; kinds that nobody made are left out."""
    keys = outcome.find_keys(outcome.asked_sets)
    found = {
        label: Counter(kinds[key] or "right" for key in keys if key in kinds) for label, kinds in outcome.errors.items()
    }
    found = {label: counter for label, counter in found.items() if counter}
    kinds = ("right", _RIGHT_IN_OTHER_WORDS, *(kind for kind in ERROR_KINDS if kind != _RIGHT_IN_OTHER_WORDS))
    names = [name for name in kinds if any(counter[name] for counter in found.values())]
    return [Group(name, len(keys), {label: counter[name] for label, counter in found.items()}) for name in names]


def group_by_tag(outcome: Outcome) -> list[Group]:
    """Right answers by the tags of the rows, the most frequent first; none where no row has a tag."""
    members: dict[str, list[RowKey]] = {}
    for key in outcome.find_keys(outcome.asked_sets):
        for tag in dict.fromkeys(_find_row(outcome, key).row.tags):
            members.setdefault(tag, []).append(key)
    return [_count_right(outcome, tag, keys) for tag, keys in sorted(members.items(), key=lambda one: -len(one[1]))]


def group_by_answer_length(outcome: Outcome) -> list[Group]:
    """Right answers by the tokens of the reference, in quarters of the rows."""
    return _group_by_length(outcome, lambda scored: scored.reference_tokens)


def group_by_prompt_length(outcome: Outcome) -> list[Group]:
    """Right answers by the characters of all that comes before the answer, in quarters of the rows."""
    return _group_by_length(outcome, lambda scored: sum(len(turn["content"]) for turn in scored.row.prompt))


def group_by_field(outcome: Outcome) -> list[Group]:
    """Right fields by their path in the JSON of the references, in its order."""
    wanted = set(outcome.asked_sets)
    found = {
        result.label: json_field_accuracy([row for row in result.rows if row.row.set_name in wanted])
        for result in outcome.board.results
    }
    sizes = {path: size for path, (_, size) in found[outcome.board.gated.label].items()}
    return [
        Group(path, size, {label: fields[path][0] for label, fields in found.items() if path in fields})
        for path, size in sizes.items()
    ]


def _group_by_length(outcome: Outcome, measure: Callable[[ScoredRow], int]) -> list[Group]:
    # A row that was not put to the model has no tokens.
    lengths = {
        key: length for key in outcome.find_keys(outcome.asked_sets) if (length := measure(_find_row(outcome, key)))
    }
    if not lengths:
        return []
    steps = np.linspace(0, 1, _BUCKETS + 1)[1:]
    ends = np.unique(np.quantile(list(lengths.values()), steps, method="higher")).tolist()
    groups, start = [], min(lengths.values())
    for end in ends:
        keys = [key for key, length in lengths.items() if start <= length <= end]
        name = f"{start:,}" if start == end else f"{start:,} – {end:,}"
        groups.append(_count_right(outcome, name, keys))
        start = end + 1
    return groups if len(groups) > 1 else []


def _find_row(outcome: Outcome, key: RowKey) -> ScoredRow:
    return outcome.answers[outcome.board.gated.label][key]


def _count_right(outcome: Outcome, name: str, keys: Sequence[RowKey]) -> Group:
    asked = [result for result in outcome.board.results if any(key in outcome.answers[result.label] for key in keys)]
    return Group(
        name, len(keys), {result.label: sum(outcome.is_right(result, key) for key in keys) for result in asked}
    )
