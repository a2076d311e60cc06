"""What a page shows of a data set's features: maps of them, and a classifier's top-1 by their dimensions."""

import math

from vidjax.report import charts
from vidjax.report.words import percent


def scatter(found, names):
    """The report's `feature_map` as the page draws it: {maps: [{title, about, classes, stops}], legend, ...}, or None.

    A class has a hue and two paths of dots, of videos that were recognised and of those that were not; stops are
    [x, y, text, class] of each video, in per cent, y growing upwards.
    """
    if not found:
        return None
    across, up = (percent(share) for share in found["explained"])
    about = {
        "pca": ("Principal components", f"{across} of the variance across, {up} upwards"),
        "tsne": ("t-SNE", f"neighbours stay neighbours, distances mean little; perplexity {found['perplexity']:.0f}"),
    }
    there = sorted(set(found["labels"]))
    legend = [{"number": c, "name": names[c], "hue": hue(i, len(there))} for i, c in enumerate(there)]
    facts = {key: found[key] for key in ("layer", "dims", "of")} | {"shown": len(found["labels"])}
    maps = [
        {"title": title, "about": text} | drawn(found, kind, names, legend) for kind, (title, text) in about.items()
    ]
    return {"maps": maps, "legend": legend} | facts


def drawn(found, kind, names, legend):
    """{classes: [{number, hue, right, wrong}], stops} of a map's `pca` or `tsne`."""
    points = [(round(100 * x, 1), round(100 * y, 1)) for x, y in found[kind]]
    dots, stops = {}, []
    for (x, y), label, said, name in zip(points, found["labels"], found["predicted"], found["ids"], strict=True):
        dots.setdefault((label, label == said), []).append(f"M{x:g} {round(100 - y, 1):g}h0")
        stops.append([x, y, f"{name}: {names[label]}" + f", taken for {names[said]}" * (label != said), label])
    paths = {"right": True, "wrong": False}
    return {
        "classes": [
            one | {kind: "".join(dots.get((one["number"], ok), ())) for kind, ok in paths.items()} for one in legend
        ],
        "stops": stops,
    }


def hue(i, count):
    """The hue in degrees of class i of `count`; where they are many, neighbours in the list are far apart."""
    turn = i / count if count <= 12 else i * (math.sqrt(5) - 1) / 2 % 1
    return round(360 * turn + 20) % 360


def dimensions(curve):
    """The report's `pca_curve` {number of principal components: top-1} as a chart, its x axis logarithmic; or None."""
    points = sorted((int(dims), top1) for dims, top1 in (curve or {}).items())
    if not points:
        return None
    least, most = points[0][0], max(points[-1][0], 2 * points[0][0])
    across = charts.scale(math.log(least), math.log(most))
    placed = [(across(math.log(dims)), 100 * top1) for dims, top1 in points]
    ticks = [i for i, (x, _) in enumerate(placed) if all(x - before > 7 for before, _ in placed[:i])]
    said = [f"{dims:,} dimension{'s' * (dims > 1)}: top-1 {percent(top1)}" for dims, top1 in points]
    return {
        "title": "Top-1 by dimensions",
        "x": [{"at": placed[i][0], "text": f"{points[i][0]:,}"} for i in ticks],
        "y": [{"at": share, "text": f"{share} %"} for share in (0, 25, 50, 75, 100)],
        "lines": [{"name": "top-1", "path": charts.path(placed), "dots": placed}],
        "mark": None,
        "stops": [[x, text] for (x, _), text in zip(placed, said, strict=True)],
    }
