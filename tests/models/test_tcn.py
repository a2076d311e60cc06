"""TCN: convolutions over time in NumPy, what a step may see, masks against shorter clips, sizes by hand."""

import jax
import numpy as np
import pytest

from vidjax import models
from vidjax.models import tcn

RGB = np.random.RandomState(0).rand(2, 8, 16, 16, 3).astype(np.float32)
SMALL = (("widths", (4, 8)), ("strides", (2, 2)))
TINY = {"backbone": "small", "backbone_fields": SMALL, "frame": "flatten", "num_classes": 3}
KINDS = {"dilated": {"widths": (6, 6), "blocks": 2}, "encoder_decoder": {"widths": (6, 4), "kernel": 3}}


def made(kind, **fields):
    model = tcn.Model(**TINY | KINDS[kind] | fields, kind=kind)
    rng = np.random.RandomState(1)
    draw = lambda s: (rng.randn(*s.shape) / np.sqrt(np.prod(s.shape[:-1]) or 1)).astype(np.float32)  # noqa: E731
    variables = jax.tree.map(draw, models.shapes(model, RGB.shape))
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    return variables, jax.jit(lambda v, x: model.apply(v, x, train=False))


@pytest.mark.parametrize(("taps", "dilation", "causal"), [(3, 1, False), (3, 4, False), (2, 2, True), (25, 1, False)])
def test_temporal_convolution_in_numpy(taps, dilation, causal):
    rng = np.random.RandomState(0)
    x, layer = rng.randn(2, 9, 4).astype(np.float32), tcn.TemporalConv(5, taps, dilation, causal)
    params = layer.init(jax.random.key(0), x)["params"]["dense"]
    expected = np.tile(params["bias"], (2, 9, 1)).astype(np.float64)
    first = -(taps - 1) * dilation if causal else -((taps - 1) * dilation // 2)
    for t, k in np.ndindex(9, taps):
        if 0 <= (at := t + first + k * dilation) < 9:
            expected[:, t] += x[:, at] @ params["kernel"][4 * k : 4 * k + 4]
    np.testing.assert_allclose(layer.apply({"params": {"dense": params}}, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_what_a_step_sees(causal):
    """Dilations 1 and 2 of a block reach 1 + 2 steps each way, or only back; two blocks twice as far."""
    variables, apply = made("dilated", causal=causal, blocks=1)
    changed = RGB.copy()
    changed[:, 4] += 0.5
    steps, other = (apply(variables, x)[1]["aux_logits/steps"] for x in (RGB, changed))
    touched = np.abs(other - steps).max((0, 2)) > 1e-5
    assert np.flatnonzero(touched).tolist() == ([4, 5, 6, 7] if causal else [1, 2, 3, 4, 5, 6, 7])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_of_shorter_clips_changes_nothing(kind):
    variables, apply = made(kind)
    mask = np.array([[1, 1, 1, 1, 1, 0, 0, 0], [1] * 8], np.float32)
    logits, out = apply(variables, {"rgb": RGB, "frame_mask": mask})
    whole, _ = apply(variables, RGB[1:])
    np.testing.assert_allclose(logits[1:], whole, rtol=1e-5, atol=1e-6)  # compiled apart
    np.testing.assert_array_equal(out["aux_mask/steps"], mask)
    other = np.where(mask[..., None, None, None] > 0, RGB, np.float32(0.1))
    np.testing.assert_array_equal(apply(variables, {"rgb": other, "frame_mask": mask})[0], logits)
    if kind == "dilated":  # the other's pools see past the end where the length is odd
        short, _ = apply(variables, RGB[:1, :5])
        np.testing.assert_allclose(logits[:1], short, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_for_every_step_and_their_mean(kind):
    variables, apply = made(kind)
    logits, out = apply(variables, RGB[:, :7])  # no multiple of the pools
    assert out["aux_logits/steps"].shape == (2, 7, 3)
    np.testing.assert_allclose(np.exp(logits), jax.nn.softmax(out["aux_logits/steps"]).mean(1), rtol=1e-5)


def test_sizes_by_hand():
    resnet50 = 25_557_032 - 1000 * 2049  # [P] torchvision, without its classifier
    layer = lambda taps: taps * 128 * 128 + 128 + 128 * 128 + 128  # noqa: E731
    ends = 2049 * 128 + 129 * 128 + 129 * 101
    size = {name: row["params"] for name, row in tcn.SIZES.items()}
    assert size["dilated"] == resnet50 + 20 * layer(3) + ends
    assert size["dilated_causal"] == resnet50 + 20 * layer(2) + ends
    convs = [(2048, 64), (64, 96), (96, 96), (96, 64)]
    assert size["encoder_decoder"] == resnet50 + sum(25 * c * n + n for c, n in convs) + 65 * 101


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"kind": "wavenet", "widths": (4,)}, "'dilated' or 'encoder_decoder', not 'wavenet'"),
        ({"kind": "dilated", "widths": (4, 8)}, "its widths must be equal"),
        ({"kind": "dilated", "widths": (4,), "frame": "map"}, "'features' or 'flatten', not 'map'"),
    ],
)
def test_field_errors(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(tcn.Model(**TINY | fields), RGB.shape)
