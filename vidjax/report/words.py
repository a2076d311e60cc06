"""What a report says in words and numbers: its views, its headline figures with their intervals, its config."""

import json
import math

from vidjax import progress

NONE, UNIT = "–", "\N{NO-BREAK SPACE}%"
FIGURES = {  # key: (what people call it, how its number is written)
    "top1": ("Top-1", "share"),
    "top5": ("Top-5", "share"),
    "mean_class": ("Mean of classes", "share"),
    "map": ("mAP", "share"),
    "auc": ("AUC", "plain"),
    "ece": ("Calibration error", "share"),
    "loss": ("Loss", "amount"),
}
ABOUT = {
    "map": "average precision, mean of classes",
    "auc": "under the ROC, mean of classes",
    "ece": "confidence against accuracy",
    "loss": "cross-entropy",
}


def views(given):
    """What was shown to the model per video, in words: "8 frames × stride 2, 4 clips × 3 crops of 112 px, ..."."""
    counts = ((given[key], key) for key in ("frames", "clips", "crops"))
    frames, clips, crops = (f"{count} {key[:-1] if count == 1 else key}" for count, key in counts)
    taken = {"segments": ", one per segment", "evenly_spaced": " evenly spaced"}
    taken = taken.get(given["sampler"], f" × stride {given['stride']}")
    if given.get("protocol"):
        taken = f" × stride {given['stride']} by the protocol {given['protocol']}"
    if not given["clips"]:
        clips = "every window"
    mean = {"prob": "probabilities averaged", "logit": "logits averaged"}.get(given["average"], given["average"])
    return f"{frames}{taken}, {clips} × {crops} of {given['size']} px, {mean}"


def views_short(given):
    """The same in a few characters, to stand beside every number."""
    return "{frames}×{stride} frames, {clips}×{crops} views, {size} px, {average}".format(**given)


def wilson(share, number, z=1.96):
    """The 95 % interval of a share seen in `number` trials -> (low, high); Wilson 1927, equation of the score test."""
    if not number or share is None:
        return None
    centre, spread = share + z * z / (2 * number), z * math.sqrt(share * (1 - share) / number + z * z / (4 * number**2))
    low, high = ((centre + sign * spread) / (1 + z * z / number) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def multi_label(report):
    """Whether a report's videos may have several labels; reports that do not say so are of one."""
    return bool(report.get("multi_label"))


def interval(report, key):
    """The 95 % interval of a figure: the report's bootstrap, top-1's by Wilson in reports without, else None."""
    found = (report.get("intervals") or {}).get(key)
    if report.get(key) is None:
        return None
    if found and None not in found:
        return tuple(found)
    return wilson(report["top1"], report["data"]["videos"]) if key == "top1" else None


def method(report):
    """How a report's intervals were made, in words."""
    return "bootstrap over videos" if report.get("intervals") else "of top-1 by Wilson's formula"


def percent(share):
    """A share as 12.3 %, or a dash for None."""
    return NONE if share is None else f"{100 * share:.1f}{UNIT}"


def number(value, how):
    """A figure as FIGURES says it is written; None is a dash."""
    if value is None:
        return NONE
    return {"share": percent, "plain": "{:.3f}".format, "amount": progress.amount}[how](value)


def between(bounds, how):
    """An interval as 95.7–98.6 %, or nothing for None."""
    if bounds is None:
        return ""
    low, high = (number(bound, how) for bound in bounds)
    return f"{low.removesuffix(UNIT)}–{high}"


def headline(report):
    """A report's figures for its head, the chief one first: [{key, name, value, interval, about}]."""
    several = multi_label(report)
    keys = [key for key in FIGURES if key in ("top1", "top5", "mean_class", "loss") or report.get(key) is not None]
    if several:
        keys.sort(key=lambda key: key != "map")
    stats = [_stat(report, key, several) for key in keys]
    clip = (report.get("hit") or {}).get("clip") or {}
    single = report["views"]["clips"] == 1  # then a clip is the video
    hits = {} if single else {k: share for k, share in clip.items() if share is not None}
    return stats + [_clip_hit(k, share) for k, share in hits.items()]


def _stat(report, key, several):
    name, how = FIGURES[key]
    if several:
        name = {"top1": "Hit@1", "top5": "Hit@5"}.get(key, name)
    stat = {"key": key, "name": name, "value": number(report.get(key), how), "about": ABOUT.get(key, "")}
    return stat | {"interval": between(interval(report, key), how), "about": _about(report, key, several)}


def _clip_hit(k, share):
    named = {"key": f"clip{k}", "name": f"Clip hit@{k}", "about": "of single clips"}
    return named | {"value": percent(share), "interval": ""}


def _about(report, key, several):
    videos, classes = f"{report['data']['videos']:,} videos", f"{len(report['class_names'])} classes"
    if key == "top5" and report["top5"] is None:
        return "too few classes"
    if key == "top1":
        right = round(report["top1"] * report["data"]["videos"])
        return f"{right:,} of {videos}, " + (
            "a true label first" if several else f"{percent(report['chance'])} by chance"
        )
    return {"top5": videos, "mean_class": classes}.get(key) or ABOUT[key]


def settings(config, prefix=""):
    """A nested config as the command line names it: [("data.batch_size", "16"), ...]."""
    flat = []
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat += settings(value, f"{prefix}{key}.")
        else:
            flat.append((prefix + str(key), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return flat


def change(line):
    """A line of config.changes, `key: old -> new`, in its parts -> (key, old, new)."""
    key, _, values = line.partition(": ")
    old, _, new = values.partition(" -> ")
    return key, old, new
