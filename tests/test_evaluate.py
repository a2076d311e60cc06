"""Metrics against a brute-force oracle, views against single clips."""

import jax
import numpy as np
import pytest
import tiny

from vidjax import evaluate, models
from vidjax.evaluate import figures


def test_metrics_equal_a_brute_force_oracle():
    rng = np.random.default_rng(0)
    scores, labels = rng.dirichlet(np.ones(9), 50).astype(np.float32), rng.integers(0, 8, 50)
    scores[:5] = 1 / 9  # ties: the lower class index is first
    found = figures.metrics(scores, labels)
    ranks = [
        sum(s[c] > s[y] or (s[c] == s[y] and c < y) for c in range(9)) for s, y in zip(scores, labels, strict=True)
    ]
    assert found["top1"] == np.mean([r < 1 for r in ranks])
    assert found["top5"] == np.mean([r < 5 for r in ranks])
    np.testing.assert_allclose(
        found["loss"], np.mean([-np.log(s[y]) for s, y in zip(scores, labels, strict=True)]), rtol=1e-6
    )
    first = [min(range(9), key=lambda c: (-s[c], c)) for s in scores]
    for true in range(9):
        for said in range(9):
            count = sum(y == true and f == said for y, f in zip(labels, first, strict=True))
            assert found["confusion"][true][said] == count
    assert found["accuracy"][8] is None  # a class without videos
    assert found["mean_class"] == np.mean([a for a in found["accuracy"] if a is not None])


def test_top5_needs_more_than_five_classes():
    assert figures.metrics(np.eye(5, dtype=np.float32), np.arange(5))["top5"] is None


@pytest.mark.parametrize("average", ["prob", "logit"])
def test_a_videos_score_is_the_mean_over_its_views(average):
    cfg = tiny.make_config("unused")
    model = models.build(cfg.model, num_classes=3)
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (2, 3, 8, 24, 24, 3), np.uint8)
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(video[:, 0].astype(np.float32) / 255)
    variables["params"]["head"]["kernel"] *= 100  # so that views differ
    batch = {"inputs": {"rgb": video}, "view_mask": np.ones((2, 3), np.float32), "mask": np.array([1, 0], np.float32)}
    out = evaluate.eval_step(variables, batch, model=model, average=average)
    logits = np.stack([model.apply(variables, video[:, v].astype(np.float32) / 255, train=False)[0] for v in range(3)])
    soft = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)  # noqa: E731
    expected = soft(logits).mean(0) if average == "prob" else soft(logits.mean(0))
    np.testing.assert_allclose(out["scores"], expected, rtol=1e-4)
    np.testing.assert_array_equal(out["mask"], batch["mask"])
    assert np.ptp(logits, 0).max() > 0.01


def test_unknown_average_is_a_sentence():
    with pytest.raises(ValueError, match="config.eval.average 'mean' is unknown; choose prob or logit"):
        evaluate.make_step(tiny.make_config("unused", eval__average="mean"), None, None, None, None)
