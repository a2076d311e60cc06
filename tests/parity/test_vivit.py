"""vivit equals its references: the golden net of transformers, and Scenic's models on drawn weights."""

import hf
from reference import near


def test_transformers(golden):
    logits, out, expected = hf.run(golden, "hf_vivit_tiny")
    near(out["embedding"].mean(1), expected["embed_mean"], "embedding")
    near(out["block2"].mean(1), expected["hidden_last_mean"], "the last block")
    near(logits, expected["logits"], "logits")
