"""A comparison of reports as people see it: the terminal's lines, and one self-contained page."""

import pathlib

from vidjax import report
from vidjax.report import words

LEVEL = 0.05  # below such a p there is a difference
COLUMNS = 4  # reports that stand side by side in the terminal
SHOWN = 6  # gains and losses that the terminal shows; the page and the JSON have all


def verdict(p):
    """What a p says, in words."""
    return "more than chance" if p < LEVEL else "could be chance"


def points(share):
    """A difference of shares with its sign, in points: +1.5, or 0.0."""
    return "0.0" if abs(share) < 0.0005 else f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def chance(p):
    """A p as people write it: p = 0.031, p < 0.0001."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}" if p < 0.01 else f"p = {p:.2f}"


def moved(rows, sign):
    """Classes that gained (sign 1) or lost (-1), most first."""
    kept = [one for one in rows if one["gain"] is not None and sign * one["gain"] > 0]
    return sorted(kept, key=lambda one: (-sign * one["gain"], one["name"]))


def describe(found):
    """The lines that `vidjax compare` prints: the reports, their figures side by side, then each pair."""
    rows, head = found["reports"], found["reports"][0]
    lines = [f"{head['data']}, {head['split']} split, {head['classes']} classes"]
    for one in rows:
        lines.append(f"  {one['letter']}  {one['file']}: {one['model']}, step {one['step']}, {one['videos']} videos")
        lines.append(f"     {one['views']}")
    for first in range(0, len(rows), COLUMNS):
        lines += ["", *_figures(rows[first : first + COLUMNS])]
    how = " and ".join(dict.fromkeys(one["intervals"] for one in rows))
    lines.append(f"  in brackets 95 % intervals, {how}")
    lines += [line for one in found["pairs"] for line in _pair(one)]
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def _figures(rows):
    """A line per figure, a column per report."""
    yield " " * 20 + "".join(f"{one['letter']:<25}" for one in rows).rstrip()
    for key, (name, how) in words.FIGURES.items():
        given = [one["figures"].get(key, {"value": None, "interval": None}) for one in rows]
        around = [words.between(figure["interval"], how) for figure in given]
        cells = [
            words.number(figure["value"], how) + (f" ({said})" if said else "")
            for figure, said in zip(given, around, strict=True)
        ]
        if any(figure["value"] is not None for figure in given):
            yield f"  {name:<18}" + "".join(f"{cell:<25}" for cell in cells).rstrip()


def _pair(one):
    a, b = one["first"], one["second"]
    yield f"\n{b} against {a}" + (f", {one['common']} videos that both have" if not one["why"] else "")
    if not one["same_views"]:
        yield "  views      are not the same: a difference is not of the weights alone"
    if one["why"]:
        yield f"  McNemar    left out: {one['why']}"
    else:
        low, high = map(points, one["interval"])
        was, now = map(words.percent, one["top1"])
        yield f"  top-1      {was} -> {now}, {points(one['difference'])} points (95 % interval {low} to {high})"
        yield (
            f"  McNemar    {one['a_only']} right in {a} alone, {one['b_only']} in {b} alone: exact binomial "
            f"{chance(one['p'])}, {verdict(one['p'])}"
        )
    for sign, title in ((1, "gains"), (-1, "losses")):
        rows = moved(one["classes"], sign)
        shown = [f"{points(row['gain'])} {row['name']}" for row in rows[:SHOWN]]
        more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
        yield f"  {title:<10} {', '.join(shown) + more or 'none'}"
    yield f"  config     {one['changes'][0] if one['changes'] else 'the same'}"
    yield from (f"             {line}" for line in one["changes"][1:])


def page(found):
    """The comparison as one self-contained HTML page -> str."""
    keys = [key for key in words.FIGURES if any(key in one["figures"] for one in found["reports"])]
    pairs = [one | drawn(one) for one in found["pairs"]]
    given = {"reports": found["reports"], "pairs": pairs, "panels": [panel(key, found["reports"]) for key in keys]}
    tools = {"points": points, "chance": chance, "verdict": verdict}
    return report.render("compare.html", given | tools | {"many": found["reports"][0]["classes"] > report.CELLS})


def drawn(one):
    """What the page needs of a pair besides: changes in parts, classes by gain, the largest, for the bars' length."""
    known = [row for row in one["classes"] if row["gain"] is not None]
    unknown = [row for row in one["classes"] if row["gain"] is None]
    return {
        "changed": [words.change(line) for line in one["changes"]],
        "sorted": sorted(known, key=lambda row: (-row["gain"], row["name"])) + unknown,
        "most": max((abs(row["gain"]) for row in known), default=0) or 1,
    }


def panel(key, rows):
    """A figure of all reports on one scale: {name, rows: [{letter, value, interval, at, low, high}]}, in per cent."""
    name, how = words.FIGURES[key]
    had = [(one["letter"], one["figures"][key]) for one in rows if key in one["figures"]]
    ends = [x for _, figure in had for x in (figure["value"], *(figure["interval"] or ()))]
    low, high = min(ends), max(ends)
    room = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    at = lambda x: round(100 * (x - low + room) / (high - low + 2 * room), 2)  # noqa: E731
    drawn = [
        {
            "letter": letter,
            "value": words.number(figure["value"], how),
            "interval": words.between(figure["interval"], how),
            "at": at(figure["value"]),
            "ends": [at(x) for x in figure["interval"]] if figure["interval"] else None,
        }
        for letter, figure in had
    ]
    return {"name": name, "rows": drawn}


def save(found, out="", file=""):
    """Writes the page to `out` and the JSON to `file`, where they are named, each whole or not at all."""
    if out:
        report.save_text(pathlib.Path(out), page(found))
    if file:
        report.save_json(pathlib.Path(file), found)
