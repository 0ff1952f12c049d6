"""Share of answers that end in a loop: at least their last 100 characters are one block, said three times or more.

Greedy decoding that has begun to repeat itself goes on until it is cut (Holtzman et al. 2020, The Curious Case of
Neural Text Degeneration), so that the end tells. A whole text's compression ratio, as in Whisper, would take tables and
JSON for loops. Rows whose reference ends so itself do not count. What is not the same each time, such as a count
upwards, is no loop here; the stop rate has it.
"""

from __future__ import annotations

from ft_pipeline.evaluation.metrics.metric import Metric

_MIN_CHARS, _MIN_TIMES = 100, 3
# A loop of longer blocks than a third of it is not seen.
_MAX_CHARS = 6000


def ends_in_loop(text: str) -> bool:
    """Whether the end of the text has a period that it goes through often and long enough."""
    end = text[-_MAX_CHARS:]
    for period in range(1, len(end) // _MIN_TIMES + 1):
        looped = max(_MIN_CHARS, _MIN_TIMES * period)
        if looped > len(end):
            return False
        if end[period - looped :] == end[-looped:-period]:
            return True
    return False


REPETITION = Metric(
    "repetition",
    "share",
    part=lambda row: float(ends_in_loop(row.prediction)),
    weight=lambda row: float(not ends_in_loop(row.row.reference)),
    better="lower",
    family="answers",
)
