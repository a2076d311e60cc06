"""Charts as numbers that the page draws: ticks, lines and bars in per cent of the plot, and what a pointer reads.

A chart is {title, x, y: [{at, text}], lines: [{name, path}], bars, marks, stops: [[x, text]]}; y grows upwards.
"""

import math

from vidjax import progress
from vidjax.report.words import percent

POINTS = 240  # of a curve at most: more are not to be seen
PANELS = 4
SHARES = ("accuracy", "top1", "top5", "mean_class", "map", "auc", "ece")


def curves(given, step):
    """The learning curves {name: [[step, value], ...]} as charts, those of one kind of figure together.

    `step` is marked: the one that the page reports.
    """
    kinds = {}
    for name, points in (given or {}).items():
        points = [(x, y) for x, y in points if y is not None]
        if points:
            kind = name.rpartition("/")[2]
            kinds.setdefault("accuracy" if kind in SHARES else kind, {})[name] = _thin(points)
    first = sorted(kinds, key=lambda kind: {"loss": 0, "accuracy": 1}.get(kind, 2))[:PANELS]
    return [_panel(kind, kinds[kind], step) for kind in first]


def _panel(kind, lines, step):
    steps = sorted({x for points in lines.values() for x, _ in points})
    values = [y for points in lines.values() for _, y in points]
    as_share = kind == "accuracy"
    x_ticks = ticks(min(0, steps[0]), max(steps[-1], step, 1))
    y_ticks = [0, 0.25, 0.5, 0.75, 1] if as_share else ticks(min(0, *values), max(values))
    across, up = scale(x_ticks[0], max(steps[-1], step, 1)), scale(y_ticks[0], y_ticks[-1])
    write = percent if as_share else lambda value: progress.amount(value) if value else "0"
    at = {name: dict(points) for name, points in lines.items()}
    said = lambda x: ", ".join(f"{name} {write(at[name][x])}" for name in lines if x in at[name])  # noqa: E731
    return {
        "title": {"loss": "Loss", "accuracy": "Accuracy"}.get(kind, kind.replace("_", " ")),
        "x": [{"at": across(x), "text": _step(x)} for x in x_ticks if across(x) <= 100],
        "y": [{"at": up(y), "text": f"{100 * y:.0f} %" if as_share else f"{y:g}"} for y in y_ticks],
        "lines": [
            {"name": name, "path": path([(across(x), up(y)) for x, y in points]), "dots": _dots(points, across, up)}
            for name, points in lines.items()
        ],
        "mark": across(step),
        "stops": [[across(x), f"step {x:,}: {said(x)}"] for x in steps],
    }


def calibration(given):
    """How often the model was right against how sure it was, per bin: a chart with bars, or None without videos."""
    if not given or not sum(given["videos"]):
        return None
    edges, rows = given["edges"], zip(given["videos"], given["confidence"], given["accuracy"], strict=True)
    bins = [(100 * low, 100 * high, *row) for low, high, row in zip(edges[:-1], edges[1:], rows, strict=True)]
    most = max(given["videos"])
    return {
        "bars": [
            {"at": low, "wide": high - low, "tall": 100 * right, "sure": 100 * sure, "many": 100 * n / most}
            for low, high, n, sure, right in bins
            if n
        ],
        "x": [{"at": at, "text": f"{at} %"} for at in (0, 25, 50, 75, 100)],
        "y": [{"at": at, "text": f"{at} %"} for at in (0, 25, 50, 75, 100)],
        "stops": [
            [
                (low + high) / 2,
                f"{low:.0f}–{high:.0f} % sure: {n:,} video{'' if n == 1 else 's'}"
                + (f", {percent(sure)} sure on average, {percent(right)} right" if n else ""),
            ]
            for low, high, n, sure, right in bins
        ],
    }


def ticks(low, high, about=5):
    """Round numbers that enclose [low, high], about so many: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        high = low + 1
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    unit = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / unit + 1e-9), math.ceil(high / unit - 1e-9)
    return [round(i * unit, 12) for i in range(first, last + 1)]


def _thin(points):
    if len(points) <= POINTS:
        return points
    last = len(points) - 1
    return [points[round(i * last / (POINTS - 1))] for i in range(POINTS)]


def scale(low, high):
    """A function from a value to its place between two others, in per cent."""
    return lambda value: round(100 * (value - low) / (high - low), 2)


def path(points):
    """The line through points (x, y), y growing upwards, for an SVG of 100 by 100."""
    return "M" + "L".join(f"{x:g} {100 - y:g}" for x, y in points)


def _dots(points, across, up):
    """The points themselves where they are few, so that one alone is seen."""
    return [[across(x), up(y)] for x, y in points] if len(points) <= 12 else []


def _step(step):
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if step >= size:
            return f"{step / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{step:,.0f}" if step == round(step) else f"{step:g}"
