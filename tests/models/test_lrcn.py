"""LRCN: sizes by hand, masks against shorter clips, per-step averages, and what makes it see motion."""

import functools

import jax
import numpy as np
import optax
import pytest

from vidjax import models
from vidjax.models import conv_lstm, lrcn

RGB = np.random.RandomState(0).rand(2, 6, 16, 16, 3).astype(np.float32)
TINY = {"convs": ((4, 2), (6, 2)), "frame": "flatten", "hidden": 5, "num_classes": 3}


def tiny(**fields):
    return lrcn.Model(**TINY | fields)


@functools.cache
def made(model, *shape):
    """Random variables of a model, biases included; its `apply`, compiled."""
    shapes, rng = models.shapes(model, shape or RGB.shape), np.random.RandomState(1)
    draw = lambda s: (rng.randn(*s.shape) / np.sqrt(np.prod(s.shape[:-1]) or 1)).astype(np.float32)  # noqa: E731
    variables = jax.tree.map(draw, shapes)
    return variables, jax.jit(lambda v, x: model.apply(v, x, train=False))


def conv(c, n, k=3):
    return k * k * c * n + n


def lstm(d, h):
    """Four gates of W x + U h + b."""
    return 4 * ((d + h) * h + h)


def test_sizes_by_hand():
    convs = conv(3, 16) + conv(16, 32) + conv(32, 64) + conv(64, 64)
    size = {name: row["params"] for name, row in lrcn.SIZES.items()}
    assert size["ucf50"] == convs + lstm(64, 32) + 33 * 6
    assert size["s0"] == conv(3, 32) + lstm(13 * 13 * 32, 128) + 129 * 10
    assert size["s3"] == conv(3, 32) + lstm(32, 128) + 129 * 2
    grouped = conv(3, 96, 7) + conv(48, 384, 5) + conv(384, 512) + conv(256, 512) + conv(256, 384)
    fc6 = (6 * 6 * 384 + 1) * 4096
    assert size["caffenet"] == grouped + fc6 + lstm(4096, 256) + 257 * 101
    assert size["caffenet_flow"] == grouped + fc6 + lstm(4096, 1024) + 1025 * 101


def test_conv_lstm_sizes_by_hand():
    def layer(c, n):
        return 9 * (c + n) * 4 * n + 4 * n

    layers, last = layer(3, 4) + layer(4, 8) + layer(8, 14) + layer(14, 16), 20 * 3 * 3 * 16
    assert conv_lstm.SIZES["ucf50"]["params"] == layers + (last + 1) * 31
    assert conv_lstm.SIZES["ucf50_hard"]["params"] == layers + (last + 1) * 4
    places = [62 * 62, 29 * 29, 13 * 13, 5 * 5]  # 64 less 2, halved upwards to 31, 15, 7, 3
    channels = [(3, 4), (4, 8), (8, 14), (14, 16)]
    macs = sum(20 * n * 9 * (c + f) * 4 * f for n, (c, f) in zip(places, channels, strict=True)) + last * 31
    assert conv_lstm.SIZES["ucf50"]["gmac"] == round(macs / 1e9, 3)


@pytest.mark.parametrize("head", ["last", "steps"])
@pytest.mark.parametrize("fields", [{}, {"both": True}, {"recurrent": "gru", "layers": 2}, {"recurrent": "convlstm"}])
def test_padding_of_shorter_clips_changes_nothing(head, fields):
    model = tiny(head=head, **fields)
    variables, apply = made(model)
    mask = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], np.float32)
    padded = np.where(mask[..., None, None, None] > 0, RGB, np.float32(0.5))
    logits, out = apply(variables, {"rgb": padded, "frame_mask": mask})
    short, _ = apply(variables, RGB[:1, :4])
    whole, _ = apply(variables, RGB[1:])
    np.testing.assert_allclose(logits, np.concatenate([short, whole]), rtol=1e-5, atol=1e-5)  # compiled apart
    if head == "steps":
        np.testing.assert_array_equal(out["aux_mask/steps"], mask)


def test_logits_of_the_per_step_head_are_the_log_of_the_mean_softmax():
    variables, apply = made(tiny(head="steps"))
    logits, out = apply(variables, RGB)
    steps = np.asarray(out["aux_logits/steps"], np.float64)
    assert steps.shape == (2, 6, 3)
    shares = np.exp(steps) / np.exp(steps).sum(-1, keepdims=True)
    np.testing.assert_allclose(np.exp(logits), shares.mean(1), rtol=1e-5)
    np.testing.assert_allclose(jax.nn.softmax(logits), shares.mean(1), rtol=1e-5)
    np.testing.assert_allclose(out["pre_logits"], out["hidden"].mean(1), rtol=1e-5)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "convlstm"])
def test_order_of_frames_matters_to_what_is_recurrent(kind):
    variables, apply = made(tiny(recurrent=kind))
    logits, shuffled = (apply(variables, x)[0] for x in (RGB, RGB[:, [3, 0, 5, 1, 4, 2]]))
    assert np.abs(logits - shuffled).max() > 1e-3 * np.abs(logits).max()


def test_any_backbone():
    fields = {"backbone": "small", "backbone_fields": (("widths", (4, 8)), ("strides", (2, 2))), "hidden": 5}
    sizes = {
        frame: jax.tree.map(lambda x: x.shape, models.shapes(lrcn.Model(**fields, frame=frame), RGB.shape))
        for frame in ("features", "flatten", "mean")
    }
    inputs = {frame: tree["params"]["recurrent"]["layer0"]["kernel"][0] for frame, tree in sizes.items()}
    assert inputs == {"features": 8, "flatten": 4 * 4 * 8, "mean": 8}


def test_one_sigmoid_output_is_two_classes():
    """S3's Dense(1, sigmoid) as a softmax: with logits 0 and z the second share is sigmoid(z)."""
    model = lrcn.Model(**lrcn.VARIANTS["s3"], num_classes=2)
    variables, apply = made(model)
    head = variables["params"]["head"]
    z = {"kernel": head["kernel"].at[:, 0].set(0) if hasattr(head["kernel"], "at") else head["kernel"] * [[0, 1]]}
    z["bias"] = head["bias"] * np.float32([0, 1])
    logits, out = apply({"params": variables["params"] | {"head": jax.tree.map(np.float32, z)}}, RGB)
    single = out["pre_logits"] @ head["kernel"][:, 1] + head["bias"][1]
    np.testing.assert_allclose(jax.nn.softmax(logits)[:, 1], 1 / (1 + np.exp(-single)), rtol=1e-5)


def test_the_flow_image_has_three_channels():
    shapes = models.shapes(models.build({"name": "lrcn", "variant": "caffenet_flow"}), (1, 16, 227, 227, 3))
    assert shapes["params"]["backbone"]["conv1"]["kernel"].shape == (1, 7, 7, 3, 96)
    assert shapes["params"]["recurrent"]["layer0"]["recurrent_kernel"].shape == (1024, 4096)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"backbone": "small"}, "one of the fields backbone"),
        ({"frame": "features"}, "flatten, mean here, not 'features'"),
        ({"convs": ((4, 4), (4, 8))}, "too small for lrcn's 2 pools"),
        ({"head": "all"}, "'last' or 'steps', not 'all'"),
        ({"recurrent": "lstn"}, "one of rnn, lstm, gru, convlstm"),
        ({"order": "GBR"}, "'RGB' or 'BGR', not 'GBR'"),
    ],
)
def test_field_errors(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.shapes(tiny(**fields), RGB.shape)


def test_two_modalities_are_refused():
    with pytest.raises(ValueError, match="sees one modality and perhaps frame_mask, not flow, rgb"):
        models.shapes(tiny(), {"rgb": RGB.shape, "flow": RGB.shape})


SMALL = {"backbone": "small", "backbone_fields": (("widths", (4, 8)), ("strides", (2, 2)))}


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("lrcn", {"hidden": 8} | SMALL),
        ("conv_lstm", {"widths": (4, 8)}),
        ("frame_attention", {"hidden": 8, "width": 8} | SMALL),
        ("tcn", {"widths": (16, 16)} | SMALL),
    ],
)
def test_the_loss_falls(family, fields):
    """On bars that move left or right: they look alike frame by frame."""
    model = models.build({"name": family, "variant": "small"} | fields, num_classes=2)
    rng, size = np.random.RandomState(0), 16
    video = np.zeros((16, 5, 8, size, 3), np.float32)
    labels, starts = np.arange(16) % 2, rng.randint(size, size=16)
    for i, t in np.ndindex(16, 5):
        video[i, t, :, (starts[i] + (2 * labels[i] - 1) * 2 * t + np.arange(4)) % size] = 1
    variables, _ = made(model, *video.shape)
    variables = variables | {"batch_stats": jax.tree.map(np.abs, variables.get("batch_stats", {}))}
    tx = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        def loss(params):
            seen = {"params": params, "batch_stats": variables["batch_stats"]}
            (logits, _), _ = model.apply(seen, video, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state, value

    params, losses = variables["params"], []
    state = tx.init(params)
    for _ in range(40):
        params, state, value = step(params, state)
        losses.append(float(value))
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
