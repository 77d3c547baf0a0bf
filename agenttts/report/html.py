"""A report as one HTML file that needs no network: figures by plotly, whose basic bundle is inlined once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from agenttts.errors import UserError
from agenttts.report import figures as plots
from agenttts.report import sentences as words
from agenttts.report.data import ReportData
from agenttts.report.pages import LOOK, PLOTLY, PLOTS, asset, environment, plot
from agenttts.report.policy import policy_figures, policy_rows
from agenttts.space.measure import label_of
from pipelines.files import whole

if TYPE_CHECKING:
    import plotly.graph_objects as go


def save_html(data: ReportData, path: Path | str) -> Path:
    """Write the report as an HTML page. An existing file is replaced only by the complete page.

    Args:
        data: The report.
        path: The file to write.

    Returns:
        The absolute path of the file.

    Raises:
        UserError: The file can't be written, or its directory does not exist.
    """
    return _write(to_html(data), path)


def save_figures(figures: Sequence[go.Figure], title: str, path: Path | str) -> Path:
    """Write figures as an HTML page. An existing file is replaced only by the complete page.

    Args:
        figures: The plotly figures.
        title: The title of the page.
        path: The file to write.

    Returns:
        The absolute path of the file.

    Raises:
        UserError: The file can't be written, or its directory does not exist.
    """
    style = "<style>body { font: 16px/1.5 system-ui, sans-serif; }</style>"
    page = Markup('<!doctype html><html lang="en"><meta charset="utf-8"><title>{}</title>').format(title)
    scripts = [Markup("<script>{}</script>").format(asset(name)) for name in (PLOTLY, PLOTS)]
    drawn = [plot(figure, title) for figure in figures]
    return _write("".join((page, style, scripts[0], *drawn, scripts[1])), path)


def require_place(path: Path) -> None:
    """Check that a page can be put somewhere: directories are not made along with it.

    Raises:
        UserError: The directory does not exist.
    """
    if not path.expanduser().parent.is_dir():
        raise UserError(f"{path}: its directory does not exist; create it, or name another file")


def _write(page: str, path: Path | str) -> Path:
    path = Path(path).expanduser().resolve()
    require_place(path)
    try:
        with whole(path) as beside:
            beside.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: the page can't be written there: {error.strerror or error}") from error
    return path


def to_html(data: ReportData) -> str:
    """Render the report as an HTML page.

    Args:
        data: The report.
    """
    stages = list(dict.fromkeys(curve.stage for curve in data.curves))
    figures = _figures(data)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            data=data,
            label=label_of(data.outcome.measure),
            sections=_sections(data, stages),
            figures={name: plot(figure, name.replace("-", " ")) for name, figure in figures.items()},
            n_next=plots.MOST_STEPS,
            stages=stages,
            tiles=_tiles(data),
            look=asset(LOOK),
            plotly_js=asset(PLOTLY),
            plots_js=asset(PLOTS),
            policy_rows=policy_rows,
            no_samples="The samples are not stored here.",
        )
    )


def _sections(data: ReportData, stages: Sequence[str]) -> dict[str, str]:
    """The titles of the sections that the page has, by their anchors, in order."""
    outcome = data.outcome
    unit = "unit of compute" if outcome.measure == "units" else "dollar"
    every = {
        "search": ("How the search went", bool(data.steps)),
        "equivalent": ("As good, as far as these examples tell", bool(outcome.equivalent)),
        "policy": ("The policy", outcome.adaptive is not None),
        "samples-buy": ("What samples buy, stage by stage", bool(stages)),
        "next": (f"Where the next {unit} would buy most", True),
        "tuned": ("Tuned models", bool(data.tuned)),
        "changes": ("What changed during the search", bool(data.changes)),
        "insights": ("Insights", True),
        "trials": ("Trials", True),
        "failing": ("Examples that fail", bool(data.failing)),
        "samples": ("Samples", bool(outcome.health or outcome.negotiated)),
        "cost": ("Cost of the search", True),
        "faults": ("Faults", True),
    }
    return {anchor: title for anchor, (title, is_shown) in every.items() if is_shown}


def _figures(data: ReportData) -> dict[str, go.Figure]:
    figures = {}
    if data.steps:
        figures["by-trial"] = plots.best_so_far(data, "trials")
        if all(step.flops is not None for step in data.steps):
            figures["by-flops"] = plots.best_so_far(data, "flops")
        figures["budget"] = plots.quality_against_budget(data)
    for stage in dict.fromkeys(curve.stage for curve in data.curves):
        figures[f"stage-{stage}"] = plots.score_against_samples(data, stage)
    if data.tuned:
        courses = plots.training_courses(data.tuned, plots.model_styles(data))
        figures |= {f"tuning-{what}": course for what, course in courses.items()}
    if data.marginals:
        figures["next-unit"] = plots.next_unit(data)
    return figures | policy_figures(data)


def _tiles(data: ReportData) -> list[tuple[str, str, str]]:
    """(what, figure, small print) of the numbers at the top."""
    tiles = []
    outcome, cost = data.outcome, data.outcome.cost
    best, base = outcome.best, outcome.baseline
    if best is not None:
        split = "test split" if data.confirmed else "search split, not confirmed"
        score = best.test_score if data.confirmed else best.search_score
        ci = best.test_ci if data.confirmed else best.search_ci
        interval = words.interval_text(ci) if ci else ""
        tiles.append((f"score · {split}", words.score_text(score), interval))
    if base is not None:
        tested = data.confirmed and base.test_score is not None
        score = base.test_score if tested else base.search_score
        ci = base.test_ci if tested else base.search_ci
        interval = words.interval_text(ci) if ci else ""
        tiles.append(("best single-model default", words.score_text(score), interval))
    tested = outcome.difference is not None
    difference = outcome.difference if tested else outcome.search_difference
    if difference is not None:
        bounds = outcome.difference_ci if tested else outcome.search_difference_ci
        split = "" if tested else " · search split"
        interval = words.interval_text(bounds, signed=True)
        tiles.append((f"difference, paired{split}", f"{difference:+.3f}", interval))
    if best is not None:
        measure, allowed = outcome.measure, data.budget_units
        of = f"of {words.units_text(allowed, measure)} allowed" if allowed is not None else ""
        planned = words.units_text(best.budget_units, measure)
        tiles.append((f"{label_of(measure)} per query", planned, of))
    used = f"of {words.count_text(cost.samples_used)} used"
    tiles.append(("samples from the bank", f"{cost.reused_share:.0%}", used))
    return tiles
