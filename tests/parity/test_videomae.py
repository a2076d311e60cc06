"""videomae equals its references: transformers' golden net, its pre-training loss, the originals on drawn weights."""

import hf
from reference import near


def test_transformers(golden):
    logits, out, expected = hf.run(golden, "hf_videomae_tiny")
    near(out["embedding"].mean(1), expected["embed_mean"], "embedding")
    near(out["tokens"].mean(1), expected["hidden_last_mean"], "tokens")
    near(logits, expected["logits"], "logits")
