"""Dagster's webserver, which answers its own page only: `python -m ft_pipeline.defs.webserver`, for `dev.py`."""

from dagster_webserver import app, cli
from dagster_webserver.webserver import DagsterWebserver
from starlette.middleware import Middleware

from ft_pipeline.same_origin import SameOrigin


class GuardedWebserver(DagsterWebserver):
    """The same behind `SameOrigin`."""

    def build_middleware(self) -> list[Middleware]:
        """What every request goes through, the first first."""
        return [Middleware(SameOrigin), *super().build_middleware()]


if __name__ == "__main__":
    # The name by which the command's own module makes its server.
    setattr(app, "DagsterWebserver", GuardedWebserver)  # noqa: B010 - it is no export, says mypy
    cli.main()  # type: ignore[no-untyped-call]
