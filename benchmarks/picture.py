"""The picture: for each row, how long everybody took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import Measured, Series

_TRX, _FLOOR, _OTHERS = "#d6402b", "#c9c9c9", "#5a7fa8"
_BAR = 0.24  # inches
_MOST_SHOWN = 7


def draw(measured: Sequence[Measured], path: Path) -> bool:
    """Draws one small chart a row; returns False where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "trx", "font.size": 8})
    from matplotlib import pyplot

    shown = [(each, _bars(each)) for each in measured]
    shown = [(each, bars) for each, bars in shown if bars]
    if not shown:
        return False
    heights = [len(bars) + 1.5 for _, bars in shown]
    figure, axes = pyplot.subplots(
        len(shown), 1, figsize=(7, _BAR * sum(heights)), gridspec_kw={"height_ratios": heights}, squeeze=False
    )
    for (each, bars), axis in zip(shown, axes[:, 0], strict=True):
        _draw_row(axis, each, bars)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return True


def _bars(measured: Measured) -> dict[str, Series]:
    """The series in the row's own unit, without details."""
    fitting = {name: series for name, series in measured.series.items() if series.unit == measured.row.unit}
    return dict([(name, series) for name, series in fitting.items() if ": " not in name][:_MOST_SHOWN])


def _draw_row(axis: object, measured: Measured, bars: dict[str, Series]) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axis, Axes)
    row = measured.row
    names = list(bars)
    medians = [series.median for series in bars.values()]
    below = [series.median - series.spread[0] for series in bars.values()]
    above = [series.spread[1] - series.median for series in bars.values()]
    colours = [_TRX if name.startswith("trx") else _FLOOR if name in row.floor else _OTHERS for name in names]
    axis.barh(names, medians, xerr=[below, above], color=colours, ecolor="#444444", error_kw={"linewidth": 0.8})
    axis.invert_yaxis()
    axis.set_title(f"{row.title.replace('`', '')}, {row.unit}", loc="left", fontsize=8, fontweight="bold")
    axis.margins(x=0.02)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
