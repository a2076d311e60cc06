"""flow_gated equals its reference: golden weights on the golden clip, whose five channels are our two inputs."""

import jax
import numpy as np
import pytest
from reference import near

from vidjax import convert, models
from vidjax.convert import weights


@pytest.fixture(scope="module")
def trained(golden):
    return weights.load(golden / "weights" / "flow_gated_rwf.npz")


def inputs(channels):
    """A file of the reference, uint8 (T, H, W, 5): red, green, blue, flow along x and y stretched to 0 ... 255."""
    video = channels[None].astype(np.float32)
    return {"rgb": video[..., :3] / 255, "flow": (video[..., 3:] - 127.5) / 127.5}


def test_golden(golden, trained):
    model = models.for_reference("rwf2000", "flow_gated", 2)
    variables = convert.from_reference("rwf2000", "flow_gated", trained)
    with np.load(golden / "expected" / "flow_gated_rwf_0_1_4.npz") as expected:
        apply = jax.jit(lambda v, x: model.apply(v, x, train=False)[0])
        logits = apply(variables, inputs(expected["input_uint8"]))[0]
        near(logits, expected["logits"], "logits")
        near(jax.nn.softmax(logits), expected["prob"], "prob")


def test_the_head_is_read_from_the_file(trained):
    more = trained | {"dense_3/kernel:0": np.zeros((32, 5), np.float32), "dense_3/bias:0": np.zeros(5, np.float32)}
    variables = convert.from_reference("rwf", "flow_gated", more)
    assert variables["params"]["head"]["bias"].shape == (5,)
