"""timesformer equals its references: the golden nets of transformers, and facebookresearch's on drawn weights."""

import hf
import jax
import numpy as np
import pytest
from reference import loss_after_step, near

from vidjax import models
from vidjax.models import timesformer


@pytest.mark.parametrize("arch", ["hf_timesformer_tiny_divided_space_time"])
def test_transformers(golden, arch):
    logits, out, expected = hf.run(golden, arch)
    near(out["embedding"].mean(1), expected["embed_mean"], "embedding")
    near(out["block2"].mean(1), expected["hidden_last_mean"], "the last block")
    near(logits, expected["logits"], "logits")


# First logits of the first clip, from transformers 5.23 run in PyTorch 2.13 on the golden formula's weights and clips.
JOINT = [0.43704942, -1.51135504, 0.68622327, 1.41584063]


def test_transformers_joint(golden):
    logits, _, expected = hf.run(golden, "hf_timesformer_tiny_joint_space_time")
    assert not expected  # else compare with that
    near(logits[0, :4], np.array(JOINT), "logits")


# The same of facebookresearch/TimeSformer's model (two blocks) on the middle 8x64x64 of the clips, and on 12 frames of
# 80x96 for which its positions are resized.
ORIGINAL = {
    "divided": (
        [1.47610188, -0.68846816, -1.82934225, 0.13599262],
        [0.14479040, 0.25661525, -0.42534739, 1.05493450],
    ),
    "space": (
        [1.77408826, 0.36245382, -0.08215608, -1.30324554],
        [1.92331183, 0.01642885, 0.27680373, 0.09294205],
    ),
    "joint": (
        [1.72020423, 0.18382137, -0.02348034, -1.32696152],
        [1.76997280, -0.21867906, 0.35898870, 0.14389160],
    ),
}
TINY = {"width": 96, "depth": 2, "heads": 4, "hidden": 192, "size": 64, "num_classes": 16}


@pytest.mark.parametrize("attention", ORIGINAL)
def test_original(golden, attention):
    model = models.build({"name": "timesformer", "variant": "b", "attention": attention, **TINY})
    video, other = hf.clips(golden, 8, 64), hf.clips(golden, 12)[:, :, :80, :96]
    variables = hf.drawn(golden, timesformer.ORIGINAL, model, video)
    for clip, expected in zip((video, other), ORIGINAL[attention], strict=True):
        logits, _ = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, clip)
        near(logits[0, :4], np.array(expected), "logits")


def test_pinned_step(golden):
    """Loss after one SGD step of 0.1; recorded with transformers' net in float64 on the same weights and clips."""
    fields = TINY | {"num_classes": 5, "drop_path": 0.0}
    model, video = models.build({"name": "timesformer", "variant": "b", **fields}), hf.clips(golden, 8, 64)
    variables = hf.drawn(golden, timesformer.HF, model, video)
    assert loss_after_step(model, variables, video) == pytest.approx(1.20572675, rel=1e-5)
