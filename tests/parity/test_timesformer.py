"""timesformer equals its references: the golden nets of transformers, and facebookresearch's on drawn weights."""

import hf
import numpy as np
import pytest
from reference import near


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
