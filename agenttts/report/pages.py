"""The parts of HTML pages: the templates' environment, and figures with the script that draws them.

The report inlines the scripts, so that one file needs no network; `agenttts ui` serves them as files. All
text of a run, of its examples and of its models' samples is escaped.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from agenttts.report import sentences as words
from agenttts.results.examples import value_text

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from jinja2 import Environment
    from markupsafe import Markup

PLOTLY = "plotly-basic.min.js"
PLOTS = "plots.js"
LOOK = "look.css"


def environment(package: str = "agenttts.report") -> Environment:
    """Return the environment of the templates of a package, with those of the report behind them.

    Args:
        package: The package whose folder `templates` is searched first.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loaders = [PackageLoader(name) for name in dict.fromkeys((package, "agenttts.report"))]
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["words"] = words
    environment.filters |= {
        "score": words.score_text,
        "count": words.count_text,
        "usd": words.usd_text,
        "read": value_text,
        "shortened": shortened,
    }
    return environment


def shortened(text: str, most: int | None) -> str:
    """Cut a text and say how long it was.

    Args:
        text: The text.
        most: The number of characters to keep; None for all.
    """
    if most is None or len(text) <= most:
        return text
    return f"{text[:most]}… ({len(text):,} characters)"


def plot(figure: go.Figure, label: str) -> Markup:
    """Return a figure as the element that `plots.js` draws; what is drawn stays when htmx morphs the page.

    Args:
        figure: The plotly figure.
        label: What it shows, for a screen reader.
    """
    from markupsafe import Markup

    data = Markup(str(figure.to_json()).replace("<", "\\u003c"))  # no end of the script element in it
    return Markup(
        '<div class="plot" role="img" aria-label="{label}"><script type="application/json">{data}</script>'
        "<div hx-morph-skip></div></div>"
    ).format(label=label, data=data)


@cache
def asset(name: str) -> Markup:
    """Return a script or a style sheet that is packaged with the report, to be inlined.

    Args:
        name: `PLOTLY`, `PLOTS` or `LOOK`.
    """
    from markupsafe import Markup

    return Markup((files("agenttts.report") / "assets" / name).read_text(encoding="utf-8"))
