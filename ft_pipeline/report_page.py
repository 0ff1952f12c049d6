"""What the reports share: how a page is rendered, and its style sheet (`report.css`)."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from ft_pipeline.text_marks import show_text


def make_environment(package: str) -> Environment:
    """An environment that escapes everything and knows the package's templates and `report.css`.

    It has the filters `text`, for what people and models wrote, and `prose`, for our own sentences.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("ft_pipeline", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"text": show_text, "prose": lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")}
    return environment
