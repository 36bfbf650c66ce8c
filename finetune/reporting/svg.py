"""Plots as SVG for a page: text stays text, and lines take the page's text colour, also on a dark page.

Matplotlib draws them through its object interface: no global state, no window.
"""

import io
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

INK = "#123456"
"""Placeholder for the page's text colour, which replaces it in the SVG."""
# A "$" in a class name is no formula.
matplotlib.rcParams["text.parse_math"] = False

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888")
"""Paul Tol's bright scheme: colour-blind readers can tell the colours apart, on white and on black."""

Values = Sequence[float | None]
Line = tuple[str, Sequence[float], Values]
"""One line of a plot: its label in the legend, where its values are, and the values."""
WIDTH = 4.8
"""Inches. One plot is readable on a telephone, and two fit side by side on a wide screen."""


def axes(*, height: float = 2.8, x: str = "", y: str = "") -> tuple[Figure, Axes]:
    """An empty plot, `height` inches high; x and y are the axes' labels with their units."""
    figure = empty(height=height)
    return figure, styled(figure.add_subplot(), x=x, y=y)


def empty(*, height: float) -> Figure:
    """A figure, `height` inches high, without a plot in it."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def styled(plot: Axes, *, x: str = "", y: str = "") -> Axes:
    """`plot` with its axes in the colour of the page's text."""
    plot.set_xlabel(x, color=INK)
    plot.set_ylabel(y, color=INK)
    plot.tick_params(colors=INK, labelsize=9)
    for name, spine in plot.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(INK)
    plot.grid(axis="y", color=INK, alpha=0.15)
    plot.set_axisbelow(True)
    return plot


def bars(groups: Sequence[str], series: Mapping[str, Values], *, y: str, title: str) -> Markup:
    """Fractions as bars side by side in each group, with their percentages above them; None leaves a gap.

    series: the values by their label in the legend.
    """
    figure, plot = axes(y=y)
    width = 0.8 / max(len(series), 1)
    for index, (name, values) in enumerate(series.items()):
        centres = [group + (index - (len(series) - 1) / 2) * width for group in range(len(groups))]
        heights = [value if value is not None else 0.0 for value in values]
        drawn = plot.bar(centres, heights, width * 0.92, label=name, color=COLOURS[index % len(COLOURS)])
        plot.bar_label(drawn, ["" if one is None else f"{one:.1%}" for one in values], color=INK, fontsize=8)
    crowded = sum(len(group) + 2 for group in groups) > 56  # letters that fit side by side
    plot.set_xticks(range(len(groups)), groups, rotation=40 if crowded else 0, ha="right" if crowded else "center")
    plot.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    plot.set_ylim(0, 1.08)
    return svg(figure, title)


def ranked(values: Mapping[str, float], *, x: str, title: str) -> Markup:
    """Fractions as bars below each other, in their order, with their names before them, which may be long."""
    figure, plot = axes(height=0.6 + 0.3 * len(values), x=x)
    drawn = plot.barh(range(len(values)), list(values.values()), 0.7, color=COLOURS[0])
    plot.bar_label(drawn, [f"{one:.1%}" for one in values.values()], color=INK, fontsize=8, padding=2)
    plot.set_yticks(range(len(values)), list(values))
    plot.invert_yaxis()
    plot.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    plot.set_xlim(0, 1.12)
    return svg(figure, title)


def lines(
    drawn: Iterable[Line], *, x: str, y: str, height: float = 2.8, colours: Sequence[str] = COLOURS
) -> tuple[Figure, Axes]:
    """A plot of lines over whole numbers, one in each of `colours`. Accuracies are in percent; None leaves a gap."""
    figure, plot = axes(height=height, x=x, y=y)
    for (label, places, values), colour in zip(drawn, colours, strict=False):
        size = 4 if len(values) <= 40 else 2
        plot.plot(places, gaps(values), marker="o", markersize=size, label=label, color=colour)
    if y.endswith("accuracy"):
        plot.yaxis.set_major_formatter(PercentFormatter(1.0))
    plot.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, plot


def gaps(values: Values) -> list[float]:
    """`values` with NaN for None: Matplotlib leaves a gap there."""
    return [float("nan") if value is None else value for value in values]


def svg(figure: Figure, title: str, *, ncols: int = 3) -> Markup:
    """The figure as an element of a page, scaled to its width; `title` is read out by screen readers.

    A plot with more than one series gets a legend above it, in `ncols` columns.
    """
    for plot in figure.axes:
        if len(plot.get_legend_handles_labels()[0]) > 1:
            plot.legend(frameon=False, labelcolor=INK, fontsize=8, ncols=ncols, loc="lower left", bbox_to_anchor=(0, 1))
    out = io.BytesIO()
    # Text stays text: the file is smaller and searchable. The salt keeps the ids of plots on one page distinct.
    # The browser draws the text, so it does not matter which letters Matplotlib's own font lacks.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    drawing = out.getvalue().decode("utf-8")
    drawing = drawing[drawing.index("<svg") :].replace(INK, "currentColor")
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    opening, _, rest = drawing.partition(">")
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    return Markup('{} role="img"><title>{}</title>{}').format(Markup(opening), title, Markup(rest))
