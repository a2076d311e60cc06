"""vivit equals its references: the golden net of transformers, and Scenic's models on drawn weights."""

import hf
import jax
import numpy as np
import pytest
from flax import traverse_util
from reference import loss_after_step, near

from vidjax import models
from vidjax.models import vivit


def test_transformers(golden):
    logits, out, expected = hf.run(golden, "hf_vivit_tiny")
    near(out["embedding"].mean(1), expected["embed_mean"], "embedding")
    near(out["block2"].mean(1), expected["hidden_last_mean"], "the last block")
    near(logits, expected["logits"], "logits")


# First logits of the first clip, from google-research/scenic's SpaceTimeViViT and ViViT run with Flax on the middle
# 8x64x64 of the golden clips, every parameter drawn by the golden formula from our path with dots and `weight` for
# `scale`.
SCENIC = {
    "encoder": [-4.0662279, 9.6188641, 1.7539544, 6.4051785],
    "self_attention": [-5.0787873, -2.6625695, 2.5983741, 3.5810199],
    "dot_product": [-1.1547970, -1.8136477, 1.5422633, -0.9238057],
}
TINY = {"width": 96, "depth": 2, "temporal_depth": 2, "heads": 4, "hidden": 192, "frames": 8, "size": 64}


@pytest.mark.parametrize("attention", SCENIC)
def test_scenic(golden, attention):
    fields = TINY | {"attention": attention, "num_classes": 5, "mean": 0.45, "std": 0.225}
    model, video = models.build({"name": "vivit", "variant": "b_16x2", **fields}), hf.clips(golden, 8, 64)
    draw = hf.formula(golden).torch_tensor
    shapes = traverse_util.flatten_dict(models.shapes(model, video.shape), sep=".")
    tensors = {name: draw(name.replace("scale", "weight"), x.shape) for name, x in shapes.items()}
    variables = traverse_util.unflatten_dict(tensors, sep=".")
    logits, _ = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)
    near(logits[0, :4], np.array(SCENIC[attention]), "logits")


def test_pinned_step(golden):
    """Loss after one SGD step of 0.1; recorded with transformers' net in float64 on the same weights and clips."""
    fields = TINY | {"num_classes": 5, "mean": 0.45, "std": 0.225}
    model, video = models.build({"name": "vivit", "variant": "b_16x2", **fields}), hf.clips(golden, 8, 64)
    variables = hf.drawn(golden, vivit.HF, model, video)
    assert loss_after_step(model, variables, video) == pytest.approx(0.39925648, rel=1e-5)
