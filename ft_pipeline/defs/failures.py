"""How an error that is meant for people ends an asset: by its words alone."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import dagster as dg

from ft_pipeline.errors import PipelineError


def failing_plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; where it raises a `PipelineError`, Dagster shows what that says and none of its stack traces.

    Other exceptions are faults of the code, and keep theirs.
    """

    @wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except PipelineError as err:
            raise dg.Failure(str(err), metadata={"kind": type(err).__name__}) from None

    return run
