"""frame_pool's consensus and masks: what is averaged when, against NumPy, and frames that do not count."""

import jax
import numpy as np
import pytest

from vidjax import models

FIELDS = {"name": "frame_pool", "variant": "small", "fields": (("widths", (4, 8)), ("strides", (2, 2)))}


def build(**fields):
    return models.build(FIELDS | fields, num_classes=3)


@pytest.fixture(scope="module")
def case():
    """(video (2, 4, 8, 8, 3), variables with a head that tells classes apart, mask (2, 4))."""
    video = np.random.RandomState(0).rand(2, 4, 8, 8, 3).astype(np.float32)
    variables = jax.jit(lambda x: build().init(jax.random.key(0), x, train=False))(video)
    kernel = 3 * np.random.RandomState(1).randn(8, 3).astype(np.float32)
    head = {"kernel": kernel, "bias": np.array([0.5, 0, -0.5], np.float32)}
    return video, variables | {"params": variables["params"] | {"head": head}}, np.array([[1, 1, 0, 0], [1, 1, 1, 0]])


def apply(model, variables, video):
    return jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("consensus", "pool"), [("features", "mean"), ("features", "max"), ("logits", "mean"), ("logits", "max")]
)
@pytest.mark.parametrize("masked", [False, True])
def test_pooling(case, consensus, pool, masked):
    video, variables, mask = case
    given = {"rgb": video, "frame_mask": mask} if masked else video
    logits, out = apply(build(consensus=consensus, pool=pool), variables, given)
    head = variables["params"]["head"]
    x = np.asarray(out["frames"], np.float64)
    x = x if consensus == "features" else x @ head["kernel"] + head["bias"]
    reduce = np.mean if pool == "mean" else np.max
    lengths = mask.sum(1) if masked else [4, 4]
    x = np.stack([reduce(frames[:n], axis=0) for frames, n in zip(x, lengths, strict=True)])
    x = x @ head["kernel"] + head["bias"] if consensus == "features" else x
    np.testing.assert_allclose(logits, x, rtol=1e-5, atol=1e-5)  # float32 against float64


def test_probabilities(case):
    video, variables, _ = case
    logits, out = apply(build(consensus="prob"), variables, video)
    expected = softmax(np.asarray(out["frame_logits"], np.float64)).mean(1)
    np.testing.assert_allclose(np.exp(logits), expected, rtol=1e-5)  # float32 against float64
    assert np.abs(expected - softmax(np.asarray(out["frame_logits"]).mean(1))).max() > 0.01  # another consensus


def test_consensus_before_and_after_the_head_agree(case):
    video, variables, _ = case
    first, second = (apply(build(consensus=name), variables, video)[0] for name in ("features", "logits"))
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)  # a mean commutes with a linear layer


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_masked_frames_do_not_matter(case, pool):
    video, variables, mask = case
    changed = np.where(mask[..., None, None, None] > 0, video, 9).astype(np.float32)
    model = build(pool=pool)
    logits = [apply(model, variables, {"rgb": x, "frame_mask": mask})[0] for x in (video, changed)]
    np.testing.assert_array_equal(*logits)
    none, _ = apply(model, variables, {"rgb": video, "frame_mask": np.zeros_like(mask)})
    np.testing.assert_array_equal(none, np.tile(variables["params"]["head"]["bias"], (2, 1)))


@pytest.mark.parametrize(
    ("fields", "given", "sentence"),
    [
        ({"consensus": "votes"}, ("rgb",), "not 'votes'"),
        ({"consensus": "prob", "pool": "max"}, ("rgb",), "a maximum is no probability"),
        ({}, ("rgb", "flow"), "takes one of rgb and flow, and a frame_mask, not flow, rgb"),
        (
            {"variant": "tsm_resnet18", "fields": (("shift", 8),)},
            ("rgb", "frame_mask"),
            "cannot leave out masked ones",
        ),
        ({"backbone": "resnet81"}, ("rgb",), "the nearest is 'resnet18'"),
    ],
)
def test_errors(fields, given, sentence):
    shapes = {"rgb": (1, 2, 8, 8, 3), "flow": (1, 2, 8, 8, 2), "frame_mask": (1, 2)}
    with pytest.raises(ValueError, match=sentence):
        models.shapes(build(**fields), {key: shapes[key] for key in given})
