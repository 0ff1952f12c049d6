"""The gate's rules as a recipe writes them: `exact_match > champion`, `stop_rate >= 0.99`, `kld <= 0.08`.

    MEASURE[@SET] OPERATOR LIMIT

LIMIT is a number, a share such as `98 %`, or a rival (`champion`, `best`, `base`, `merged`) that may be moved, as in
`general >= base - 0.05`. SET is held_out if none is named. Against a rival, `>` and `<` ask that the paired 95 %
interval of the difference lies wholly beyond it; with `>=` and `<=` the difference itself is enough.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from ft_pipeline.evaluation.metrics.metric import Metric

HELD_OUT, GENERAL = "held_out", "general"
# What a file costs: of no set, and without an interval.
COSTS = ("size_bytes", "tokens_per_second", "first_token_seconds", "memory_bytes")
# The checks that stand for all rules: those whose breach fails the run, and those that say whether it is better.
GATE, BETTER = "gate", "better"
# A name of its own for what people ask most of the general set.
PASSED_CHECKS = "passed_checks"
_SHORT = {GENERAL: (PASSED_CHECKS, GENERAL)}

Rival = Literal["champion", "best", "base", "merged"]
RIVALS: tuple[Rival, ...] = get_args(Rival)
Operator = Literal[">", ">=", "<", "<="]
# fail: the run fails; keep: the champion stays; warn: it is only told.
OnFailure = Literal["fail", "keep", "warn"]

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_RULE = re.compile(
    rf"\s*(?P<measure>[A-Za-z][A-Za-z0-9_]*)\s*(?:@\s*(?P<set>[a-z0-9][a-z0-9._-]*)\s*)?(?P<operator>>=|<=|>|<)\s*"
    rf"(?:(?P<rival>{'|'.join(RIVALS)})\s*(?:(?P<sign>[+-])\s*(?P<margin>{_NUMBER})\s*(?P<margin_percent>%)?)?"
    rf"|(?P<limit>-?{_NUMBER})\s*(?P<percent>%)?)\s*"
)
_ROUNDING = 1e-12
_KINDS = {">": "min", ">=": "min", "<": "max", "<=": "max"}


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        text: As the recipe has it.
        measure: A metric's name, or one of COSTS.
        set_name: The rows that it is taken over.
        rival: Whom it compares with; None where `limit` is the value itself.
        limit: The value, or what is added to the rival's.
        on_failure: What a breach leads to.
        bounds_ties: It is asked only of a challenger that is level with the champion.
    """

    text: str
    measure: str
    set_name: str
    operator: Operator
    rival: Rival | None
    limit: float
    on_failure: OnFailure
    bounds_ties: bool = False

    @property
    def name(self) -> str:
        """Of the asset check: letters, digits and underscores; the limit may change without changing it."""
        where = "" if self.set_name == HELD_OUT else f"_{self.set_name}"
        kind = "tie_bound" if self.bounds_ties else f"vs_{self.rival}" if self.rival else _KINDS[self.operator]
        return re.sub(r"\W", "_", f"{self.measure}{where}_{kind}", flags=re.ASCII)

    @property
    def wants_more(self) -> bool:
        """Higher values keep the rule."""
        return self.operator in (">", ">=")

    @property
    def is_strict(self) -> bool:
        """The paired interval must lie beyond the rival."""
        return self.operator in (">", "<")

    @property
    def decides(self) -> bool:
        """It says whether a challenger is better than what runs today."""
        asks_for_more = self.limit >= 0 if self.wants_more else self.limit <= 0
        return self.rival == "champion" and self.is_strict and asks_for_more and self.on_failure != "warn"

    def bound_to_best(self, max_loss: float) -> Rule:
        """What a challenger that is level with the champion must keep to: ties may cost this much, all together.

        Args:
            max_loss: How far below the best champion ever it may be.
        """
        operator: Operator = ">=" if self.wants_more else "<="
        sign, limit = ("-", -max_loss) if self.wants_more else ("+", max_loss)
        text = f"{self.text.partition(self.operator)[0].strip()} {operator} best {sign} {max_loss:g}"
        return replace(self, text=text, operator=operator, rival="best", limit=limit, bounds_ties=True)

    def holds(self, value: float, limit: float) -> bool:
        """Whether a value keeps to a limit, the last digits of a difference left aside; what is no number does not."""
        at_limit = math.isclose(value, limit, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
        match self.operator:
            case ">":
                return value > limit and not at_limit
            case ">=":
                return value > limit or at_limit
            case "<":
                return value < limit and not at_limit
            case "<=":
                return value < limit or at_limit


def parse_rule(text: str, on_failure: OnFailure | None = None) -> Rule:
    """A rule from its text.

    Raises:
        ValueError: it is none.
    """
    match = _RULE.fullmatch(text)
    if not match:
        raise ValueError(
            f"a gate's rule must be MEASURE[@SET] >, >=, < or <= and a number or one of {', '.join(RIVALS)}, such as "
            f"'exact_match > champion' or 'kld <= 0.08'; got {text!r}"
        )
    measure, set_name = _SHORT.get(match["measure"], (match["measure"], match["set"] or HELD_OUT))
    if measure != match["measure"] and match["set"]:
        raise ValueError(f"'{match['measure']}' is of its own set; got {text!r}")
    rival = cast("Rival | None", match["rival"])
    limit = float(match["limit"] or match["margin"] or 0) * (0.01 if match["percent"] or match["margin_percent"] else 1)
    if not math.isfinite(limit):
        raise ValueError(f"a gate's limit must be a finite number; got {text!r}")
    rule = Rule(
        text=" ".join(text.split()),
        measure=measure,
        set_name=set_name,
        operator=cast("Operator", match["operator"]),
        rival=rival,
        limit=-limit if match["sign"] == "-" else limit,
        on_failure=on_failure or ("keep" if rival == "champion" else "fail"),
    )
    if rule.measure in COSTS and (rule.rival or match["set"]):
        raise ValueError(f"'{rule.measure}' is a figure of a file: it takes a number and no set; got {text!r}")
    return rule


@dataclass(frozen=True)
class Answerable:
    """What a recipe's rules may be about.

    Attributes:
        measures: By name; None for a user's own, of which only the file knows unit and direction.
        sets: Names of the sets of rows.
        has_16bit: The merged model in 16 bits competes.
    """

    measures: Mapping[str, Metric | None]
    sets: Sequence[str]
    has_16bit: bool


def find_faults(rules: Sequence[Rule], known: Answerable) -> list[str]:
    """What is wrong with rules whose texts are right: what no evaluation could answer, and what says nothing."""
    faults = [f"'{rule.text}': {fault}" for rule in rules for fault in _find_rule_faults(rule, known)]
    by_name: dict[str, list[str]] = {}
    for rule in rules:
        by_name.setdefault(rule.name, []).append(f"'{rule.text}'")
    faults += [f"{' and '.join(texts)} are one check, {name}; keep one" for name, texts in by_name.items() if texts[1:]]
    if not any(rule.decides for rule in rules):
        faults.append(
            "a rule must say in what a challenger is to be better than what runs today: 'exact_match > champion'"
        )
    return faults


def _find_rule_faults(rule: Rule, known: Answerable) -> Iterator[str]:
    names = {*known.measures, *COSTS, *_SHORT}
    metric = known.measures.get(rule.measure)
    if rule.measure not in names:
        near = difflib.get_close_matches(rule.measure, names, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        yield f"there is no measure '{rule.measure}'.{hint} Known: {', '.join(sorted(names))}."
    if rule.set_name not in known.sets:
        yield f"there is no set '{rule.set_name}' (has: {', '.join(known.sets)})."
    if "%" in rule.text and (rule.measure in COSTS or (metric and metric.unit != "share")):
        yield f"'{rule.measure}' is no share; write its limit without %."
    if (rule.rival == "merged" or (metric and metric.family == "fidelity")) and not known.has_16bit:
        yield "evaluation.compare_with_16bit is off, so there is no 16-bit model to compare with."
    if rule.rival == "merged" and rule.set_name == GENERAL:
        yield "the 16-bit model is not asked the general set."
    if metric and metric.family == "fidelity" and (rule.rival or rule.set_name != HELD_OUT):
        yield f"'{rule.measure}' is of the challenger on held-out rows; it takes a number and no set."
    if (rule.measure == PASSED_CHECKS) != (rule.set_name == GENERAL) and (
        rule.measure == PASSED_CHECKS or (metric and metric.family == "task")
    ):
        yield f"the general set is judged by {PASSED_CHECKS}, and nothing else is: write 'general >= base - 0.1'."
    if metric and rule.decides and metric.better != ("higher" if rule.wants_more else "lower"):
        yield f"a challenger is not better by that: of '{rule.measure}' {metric.better} is."
