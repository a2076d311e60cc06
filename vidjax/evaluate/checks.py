"""What must fit before an evaluation: classes, readable videos, a folder to write to, videos long enough."""

import dataclasses
import logging
import os

from vidjax import data
from vidjax.data import modalities, protocols
from vidjax.evaluate.errors import EvaluationError

log = logging.getLogger("vidjax")
ONE_EACH = ("segment", "evenly", "part_starts")  # rules whose clip spans any video


def check_classes(source, meta, workdir):
    """Raises EvaluationError if a source's classes are not those of a checkpoint's meta, in the same order."""
    known = meta["class_names"]
    if list(source.classes) != known:
        new, gone = sorted(set(source.classes) - set(known))[:5], sorted(set(known) - set(source.classes))[:5]
        raise EvaluationError(
            f"{source.name} has other classes than the checkpoint in {workdir}: only the data have {new}, "
            f"only the checkpoint has {gone}; give the data it was trained on, or another --workdir."
        )


def check_labels(source, meta):
    """Raises EvaluationError if one of a source and a checkpoint has several labels a video, the other one."""
    if source.multi_label != meta.get("multi_label", source.multi_label):
        kinds = ["one label", "several labels"][:: -1 if source.multi_label else 1]
        raise EvaluationError(
            f"{source.name} has {kinds[0]} a video, the checkpoint was trained on {kinds[1]}: give data with labels of "
            "the same kind."
        )


def adopted(source, meta):
    """A source by the class numbers of a checkpoint's meta, where its classes are some of those; else as it is."""
    known = {name: number for number, name in enumerate(meta["class_names"])}
    if list(source.classes) == list(known) or not set(source.classes) <= set(known) or not hasattr(source, "rows"):
        return source
    numbers = [known[name] for name in source.classes]
    new = lambda label: tuple(numbers[i] for i in label) if isinstance(label, tuple) else numbers[label]  # noqa: E731
    rows = tuple(row | {"label": new(row["label"])} for row in source.rows)
    return dataclasses.replace(source, rows=rows, classes=tuple(known))


def check_readable(source, allow_bad):
    """Raises EvaluationError if the index found unreadable videos in an evaluation split, unless allowed."""
    records = map(source.__getitem__, range(len(source)))
    refuse([record["error"] for record in records if record["error"]], source, allow_bad)


def refuse(errors, source, allow_bad):
    """Raises EvaluationError if there are reasons why videos of a source cannot be read, unless allowed."""
    if errors and not allow_bad:
        raise EvaluationError(
            f"{len(errors)} of {len(source)} evaluation videos cannot be read (first: {errors[0]}); repair or remove "
            f"them, or leave them out of the figures with --config.eval.allow_bad=True."
        )


def check_writable(folder):
    """Makes a folder for reports; EvaluationError where nothing can be written there."""
    probe = os.path.join(folder, f".writable.{os.getpid()}.tmp")
    try:
        os.makedirs(folder, exist_ok=True)
        with open(probe, "w", encoding="utf-8"):
            pass
        os.remove(probe)
    except OSError as error:
        raise EvaluationError(
            f"reports cannot be written into {folder}: {(error.strerror or str(error)).lower()}; make it writable, or "
            "give another folder with --out=DIR."
        ) from error


def note_short(cfg, source):
    """Says how many videos have fewer frames than a clip of the named protocol, whose frames are then repeated."""
    name = cfg.eval.get("protocol")
    if not name or protocols.find(name).rule.startswith(ONE_EACH):
        return
    span = (cfg.data.clip.size - 1) * cfg.data.clip.stride + 1
    records, section = [source[i] for i in range(len(source))], data.options(cfg.data)
    short = [r for r in records if not r["error"] and modalities.room(section, r["num_frames"])[1] < span]
    if short:
        log.warning(
            "%d of %d videos have fewer frames than the %d that a clip of %s spans (first: %s with %d): theirs are "
            "repeated; --config.data.clip.stride=N or another --protocol takes shorter clips",
            *(len(short), len(records), span, name, short[0]["id"], short[0]["num_frames"]),
        )
