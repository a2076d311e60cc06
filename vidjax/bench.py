"""Where the input of a config spends its time, and the accelerator it could feed: `vidjax data bench`."""

import contextlib
import itertools
import time

import jax
import numpy as np

from vidjax import data, logs
from vidjax.data import modalities

AGAIN = 5  # batches that are stacked and transferred
STAGES = ("read", "sample", "decode", "transform", "flow", "batch", "transfer")


def input_bench(cfg, *, workers=(0,), seconds=10.0):
    """Times a config's input: {batch_size, clips, stages: {name: ms a clip}, rates: {workers: clips a second}}.

    The stages run one after the other in one thread (`read` is the file's bytes alone, which `decode` reads again);
    the rates are those of `data.train` as a run uses it, after its first batch. ValueError if no video can be read.
    """
    with logs.counter("preparing data") as progress:
        source = data.source(cfg.data, "train", progress)
    stages, clips = time_stages(cfg, source, seconds)
    rates = {n: rate(cfg, source, n, seconds) for n in workers}
    return {"batch_size": cfg.data.batch_size, "clips": clips, "stages": stages, "rates": rates}


def time_stages(cfg, source, seconds):
    """Milliseconds that each stage takes for one clip, and how many clips that is the mean of."""
    section = data.options(cfg.data)
    places, spent, rows, began = data.order_of(section, source, 0), dict.fromkeys(STAGES, 0.0), [], time.perf_counter()
    sample, decode = data.SampleClip(section, places), data.Decode(section)
    records, rng = data.endless(section, source, places), np.random.default_rng(0)

    @contextlib.contextmanager
    def timed(stage):
        since = time.perf_counter()
        yield
        spent[stage] += time.perf_counter() - since

    for position in itertools.count():
        if time.perf_counter() - began > seconds and (rows or position >= len(source)):
            break
        record = records[position]
        with timed("read"):
            modalities.encoded(record)
        with timed("sample"):
            record = sample.random_map(record, rng)
        with timed("decode"):
            record = decode.map(record)
        if record["error"]:
            continue
        for raw in record["raw"]:
            with timed("transform"):
                view, _ = data.cropped(section, raw, rng)
            with timed("flow"):
                inputs = modalities.finish(section, view)
            with timed("transform"):
                rows.append(data.coloured(section, inputs, rng))
    if not rows:
        raise ValueError(f"{source.name}: not one clip of {position} videos could be read")
    size = min(section["batch_size"], len(rows))
    jax.block_until_ready(jax.device_put(data.stacked(rows[:size])))  # the first also starts the backend
    for _ in range(AGAIN):
        with timed("batch"):
            batch = data.stacked(rows[:size])
        with timed("transfer"):
            jax.block_until_ready(jax.device_put(batch))
    counts = dict.fromkeys(STAGES, len(rows)) | {"batch": AGAIN * size, "transfer": AGAIN * size}
    return {stage: 1000 * spent[stage] / counts[stage] for stage in STAGES}, len(rows)


def rate(cfg, source, workers, seconds):
    """Clips a second that the pipeline yields with so many worker processes, its start not counted."""
    section = cfg.data.copy_and_resolve_references()
    section.workers = workers
    with contextlib.closing(data.train(section, source, seed=0)) as batches:
        for _ in range(1 + 2 * max(1, workers)):  # what was read ahead while the first was made
            next(batches)
        began, clips = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            clips += int(next(batches)["mask"].sum())
        return clips / (time.perf_counter() - began)


def table(found):
    """The figures of `input_bench` for people to read."""
    total = sum(ms for stage, ms in found["stages"].items() if stage != "read")
    lines = [f"one clip, one thread (mean of {found['clips']})"]
    lines += [
        f"  {stage:<10}{ms:9.2f} ms {ms / total:6.1%}{'  (part of decode)' if stage == 'read' else ''}"
        for stage, ms in found["stages"].items()
    ]
    lines.append(f"  {'in all':<10}{total:9.2f} ms, {1000 / total:.1f} clips/s")
    for workers, clips in found["rates"].items():
        steps = clips / found["batch_size"]
        lines.append(
            f"{workers} workers {clips:9.1f} clips/s, feeds {steps:.2f} steps/s of batch {found['batch_size']}"
        )
    return "\n".join(lines)
