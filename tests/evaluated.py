"""A run to evaluate, for the tests of jobs and of what they evaluate."""

import json

import numpy as np
import tiny

from vidjax import checkpoint, commandline, config, train
from vidjax.evaluate import jobs


def train_run(videos, workdir):
    """A run of 6 steps with three checkpoints; training evaluated the last, three crops of a clip over each video."""
    changes = {"steps": 6, "checkpoint_every": 2, "eval__every": 6, "keep": 9, "eval__batch_size": 4}
    cfg = tiny.make_config(videos, **changes, eval__crops=3, eval__resize=28, eval__average="logit")
    cfg.data.clip.sampler = "segments"
    train.train(commandline.complete(cfg), str(workdir))
    return workdir


def job(run, **how):
    cfg = config.from_dict(checkpoint.read_meta(str(run))["config"])
    return jobs.Job(cfg, str(run), **how)


def steps_of(reports):
    return [report["step"] for report in reports]


def read(path):
    with np.load(path) as arrays:
        return dict(arrays)


def same_report(one, other):
    """Two report files are equal but for when, how fast and after which others they were made."""
    timed = ("created", "curves", "seconds", "videos_per_second", "throughput", "weights")
    one, other = ({k: v for k, v in json.loads(x.read_text()).items() if k not in timed} for x in (one, other))
    assert one == other
