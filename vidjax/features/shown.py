"""What a search found as people see it: the terminal's lines, JSON lines, and one self-contained page."""

import contextlib
import json
import os
import pathlib
import sys

import numpy as np

from vidjax import report
from vidjax.data import clips, modalities, video
from vidjax.features import search
from vidjax.predict import outputs, windows
from vidjax.report import pictures

FRAMES, SHORT_SIDE = 24, 144  # of a window on the page, and its pixels


def run(index, net, paths, values):
    """Searches an index for the neighbours of query videos as the command's flags say; -> how many cannot be read."""
    for text, name in ((values.stride, "stride"), (values.window, "window")):
        windows.frames(text, 25, name)  # a mistake is told before the first video
    how = {key: getattr(values, key) for key in ("top", "per_video", "stride", "window", "threads")}
    failed, kept = 0, []
    with contextlib.ExitStack() as stack:
        add = stack.enter_context(outputs.lines(values["json"].value))
        found = search.search(index, net, paths, own=values["self"].value, **how)
        for path, result in stack.enter_context(contextlib.closing(found)):
            if isinstance(result, video.VideoError):
                failed += 1
                print(f"skipped {result}", file=sys.stderr, flush=True)
                add(outputs.failure_json(path, result))
                continue
            print(describe(result, index), flush=True)
            add(as_json(result, index))
            kept += [card(result)] if values.out else []
    if kept:
        save(pathlib.Path(values.out), kept, index)
        print(f"wrote    {values.out}")
    return failed


def describe(result, index):
    """The lines of one query: how it was searched, then its neighbours, best first."""
    spans = result["windows"]
    each = f"{len(spans)} windows" if len(spans) > 1 else "1 window"
    lines = [f"{outputs.printable(result['path'])}, {each}: nearest by {index.metric} of {index.layer}"]
    for one in result["hits"]:
        query = spans[one["query"]]
        near = f"  of query {query['start']:.2f} - {query['end']:.2f} s" if len(spans) > 1 else ""
        label = f"  {' '.join(one['label'].split())}" if one["label"] else ""
        own = "  (the query itself)" if one["self"] else ""
        time = f"{one['start']:7.2f} - {one['end']:6.2f} s"
        lines.append(f"  {one['score']:7.4f}  {time}  {one['id']}{label}{near}{own}")
    return "\n".join(lines if result["hits"] else [*lines, "  nothing: the index holds the query alone"])


def as_json(result, index):
    """The line of one query in JSON."""
    about = {"path": outputs.printable(result["path"]), "index": index.place}
    about |= {"metric": index.metric, "layer": index.layer}
    return json.dumps(about | {key: result[key] for key in ("windows", "hits")}, ensure_ascii=False) + "\n"


def card(result):
    """A query with its pictures, and those of its neighbours, for the page."""
    spans = result["windows"]
    whole = {"path": result["path"], "frames": [0, spans[-1]["frames"][1]]}
    hits = [hit | pictured(hit) | {"near": spans[hit["query"]]} for hit in result["hits"]]
    name = outputs.printable(result["path"])
    return {
        "name": name,
        "short": os.path.basename(name),
        "end": spans[-1]["end"],
        "count": len(spans),
        "hits": hits,
    } | pictured(whole)


def pictured(one):
    """{frames, clip, why}: a window's pictures as data URIs, or why there are none."""
    first, end = one["frames"]
    chosen = first + clips.evenly_spaced(end - first, min(FRAMES, end - first))
    try:
        if not one["path"]:
            raise video.VideoError("it lies in a shard of a data set")
        frames = modalities.decode({"path": one["path"]}, np.ravel(chosen), SHORT_SIDE)
    except video.VideoError as error:
        return {"frames": [], "clip": "", "why": str(error)}
    return {"frames": pictures.strip(frames), "clip": pictures.clip(frames), "why": ""}


def save(path, queries, index):
    """Writes the page of all queries."""
    about = {"metric": index.metric, "layer": index.layer, "place": index.place, "rows": len(index.vectors)}
    about |= {"queries": queries, "approximate": index.lists is not None}
    about |= {"kind": index.manifest["rows_are"], "net": index.manifest["model"], "width": index.vectors.shape[1]}
    path.parent.mkdir(parents=True, exist_ok=True)
    report.save_text(path, report.render("search.html", about))
