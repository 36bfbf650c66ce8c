"""Plots as SVG for a page: text stays text, and ink takes the page's colour, so that they are readable in the dark.

Matplotlib draws them through its object interface: no global state, no window.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#123456"
"""Stands for the page's text colour, which replaces it in the SVG."""
# A "$" in a class name is a "$", not the start of a formula.
matplotlib.rcParams["text.parse_math"] = False

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888")
"""Paul Tol's bright scheme: told apart by colour-blind readers, on white and on black."""

Series = Mapping[str, Sequence[float | None]]


WIDTH = 4.8
"""Inches: a plot that is read on a telephone, and stands beside another on a wide screen."""


def axes(*, height: float = 2.8, x: str = "", y: str = "") -> tuple[Figure, Axes]:
    """An empty plot, `height` inches high; x and y are the axes' labels with their units."""
    figure = empty(height=height)
    return figure, dressed(figure.add_subplot(), x=x, y=y)


def empty(*, height: float) -> Figure:
    """A figure, `height` inches high, without a plot in it."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def dressed(plot: Axes, *, x: str = "", y: str = "") -> Axes:
    """`plot` in the page's ink."""
    plot.set_xlabel(x, color=INK)
    plot.set_ylabel(y, color=INK)
    plot.tick_params(colors=INK, labelsize=9)
    for name, spine in plot.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(INK)
    plot.grid(axis="y", color=INK, alpha=0.15)
    plot.set_axisbelow(True)
    return plot


def bars(groups: Sequence[str], series: Series, *, y: str, percent: bool = False, title: str) -> Markup:
    """Bars side by side in each group, with their figures above them; None leaves a gap."""
    figure, plot = axes(y=y)
    width = 0.8 / max(len(series), 1)
    for index, (name, values) in enumerate(series.items()):
        places = [group + (index - (len(series) - 1) / 2) * width for group in range(len(groups))]
        heights = [value if value is not None else 0.0 for value in values]
        drawn = plot.bar(places, heights, width * 0.92, label=name, color=COLOURS[index % len(COLOURS)])
        words = ["" if value is None else f"{value:.1%}" if percent else f"{value:.3g}" for value in values]
        plot.bar_label(drawn, words, color=INK, fontsize=8)
    crowded = sum(len(group) + 2 for group in groups) > 56  # letters that stand side by side on this width
    plot.set_xticks(range(len(groups)), groups, rotation=40 if crowded else 0, ha="right" if crowded else "center")
    if percent:
        plot.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        plot.set_ylim(0, 1.08)
    legend(plot)
    return svg(figure, title)


def lines(
    x: Sequence[float], series: Series, *, x_label: str, y: str, title: str, log_x: bool = False, marks: bool = True
) -> Markup:
    """One line a series over `x`; None leaves a gap."""
    figure, plot = axes(x=x_label, y=y)
    for index, (name, values) in enumerate(series.items()):
        heights = [float("nan") if value is None else value for value in values]
        plot.plot(x, heights, marker="o" if marks else None, markersize=4, label=name, color=COLOURS[index % 7])
    if log_x:
        plot.set_xscale("log", base=2)
        plot.set_xticks(list(x), [f"{value:g}" for value in x])
    legend(plot)
    return svg(figure, title)


def legend(plot: Axes, *, columns: int = 3) -> None:
    """Names of the series above the plot, where there is more than one."""
    if len(plot.get_legend_handles_labels()[0]) > 1:
        plot.legend(frameon=False, labelcolor=INK, fontsize=8, ncols=columns, loc="lower left", bbox_to_anchor=(0, 1))


def svg(figure: Figure, title: str) -> Markup:
    """The figure as an element of a page, scaled to its width; `title` is what a screen reader says."""
    out = io.BytesIO()
    # Text as text: smaller, searchable. The salt keeps the ids of several plots on one page apart.
    # Text is drawn by the browser: that Matplotlib's own font lacks a letter of it is no matter.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    drawing = out.getvalue().decode("utf-8")
    drawing = drawing[drawing.index("<svg") :].replace(INK, "currentColor")
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", drawing, count=1)
    drawing = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img"', drawing, count=1)
    label = Markup("<title>{}</title>").format(title)
    return Markup(re.sub(r"(<svg[^>]*>)", lambda found: found[1] + str(label), drawing, count=1))
