"""A tiny run for tests: the quickstart's smoke config on a motion suite of 40 + 13 small videos."""

import contextlib
import itertools
import pathlib
import types

import numpy as np

from vidjax import config, data
from vidjax.data import motion

ROOT = pathlib.Path(__file__).resolve().parent.parent


def render(folder):
    """Renders the videos; 13 for evaluation divide by no batch and no mesh."""
    motion.render(folder, train=40, evaluation=13, size=32, frames=(8, 10))
    return folder


def make_config(path, **changes):
    """The smoke config on the videos in `path`, with dotted changes such as optim__lr=0.1."""
    cfg = config.from_file(f"{ROOT}/configs/quickstart.py:smoke")
    cfg.data.update({"source": "folder", "path": str(path), "batch_size": 8, "short_side": 0})
    cfg.data.augment.size = cfg.eval.size = 24
    cfg.model.update({"depths": (1, 1), "widths": (4, 8), "strides": (1, 2), "convs": ("3d", "3d"), "dropout": 0.2})
    cfg.mesh = {"data": 1}
    cfg.update({"steps": 8, "checkpoint_every": 4, "log_every": 4})
    cfg.eval.every = 8
    for key, value in changes.items():
        *sections, last = key.split("__")
        section = cfg
        for name in sections:
            section = section[name]
        section[last] = value
    return cfg


def untrained(names, **changes):
    """(variables, meta) of a checkpoint of the tiny net with random weights; windows of a video differ in score."""
    import jax

    from vidjax import evaluate, models

    cfg = make_config("unused", **changes)
    model = models.build(cfg.model, num_classes=len(names))
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(np.zeros((1, 8, 24, 24, 3)))
    variables["params"]["head"]["kernel"] *= 30
    return variables, evaluate.meta(cfg, model, types.SimpleNamespace(classes=names, multi_label=False))


def save_untrained(folder, names, **changes):
    """A run with the checkpoint of `untrained`, at step 0; -> its folder."""
    from vidjax import checkpoint

    variables, meta = untrained(names, **changes)
    folder.mkdir(parents=True, exist_ok=True)
    config.save(config.from_dict(meta["config"]), str(folder))
    checkpoints = checkpoint.Checkpoints(folder)
    checkpoints.save(0, variables, {"step": np.int32(0)}, meta, wait=True)
    checkpoints.close()
    return folder


def batches(cfg, source, n, **where):
    """The first n batches of a pipeline, whose workers are ended."""
    with contextlib.closing(data.train(cfg.data, source, seed=3, **where)) as iterator:
        return list(itertools.islice(iterator, n))


def assert_equal(a, b):
    """Two trees of arrays are equal bit for bit."""
    import jax

    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
