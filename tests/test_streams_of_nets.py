"""Nets that take a video in pieces: however it is cut, they end with what the whole video gives (acceptance 12)."""

import jax
import numpy as np
import pytest

from vidjax import models
from vidjax.nn import shifted, shifted_online

SMALL = (("widths", (8, 16)), ("strides", (2, 2)))
SHIFT = (("depths", (1, 2)), *SMALL, ("stem_width", 8), ("shift", 4), ("online", True))
CONVS = {"variant": "s3", "convs": ((6, 2), (8, 2))}
NETS = {
    "frames alone, features": {"name": "frame_pool", "variant": "small", "fields": SMALL},
    "frames alone, maximum": {"name": "frame_pool", "variant": "small", "fields": SMALL, "pool": "max"},
    "frames alone, probabilities": {"name": "frame_pool", "variant": "small", "fields": SMALL, "consensus": "prob"},
    "tsm resnet": {"name": "frame_pool", "variant": "tsm_resnet18_online", "fields": SHIFT},
    "tsm mobilenet": {
        "name": "frame_pool",
        "variant": "tsm_mobilenet_v2_online",
        "fields": (("shift", 8), ("online", True), ("stages", ((1, 8, 1, 1), (3, 16, 3, 2))), ("last", 24)),
    },
    "rnn": {"name": "lrcn", "recurrent": "rnn"} | CONVS,
    "lstm of two layers": {"name": "lrcn", "layers": 2} | CONVS,
    "lstm, every step": {"name": "lrcn", "head": "steps"} | CONVS,
    "gru": {"name": "lrcn", "recurrent": "gru", "options": (("reset", "before"),)} | CONVS,
    "convolutional lstm": {"name": "lrcn", "recurrent": "convlstm", "head": "steps"} | CONVS,
}
FRAMES = 9


def pieces(seed):
    """Lengths that sum to FRAMES."""
    cuts = np.random.RandomState(seed).choice(np.arange(1, FRAMES), seed % 3 + 1, replace=False)
    return np.diff([0, *sorted(cuts), FRAMES])


@pytest.mark.parametrize("net", [*NETS])
def test_a_stream_ends_as_the_whole(net):
    model = models.build({"hidden": 8} | NETS[net] if NETS[net]["name"] == "lrcn" else NETS[net], num_classes=3)
    video = np.random.RandomState(0).rand(2, FRAMES, 16, 16, 3).astype(np.float32)
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(video)
    head = variables["params"]["head"]
    head["kernel"] = 9 * np.random.RandomState(1).randn(*head["kernel"].shape).astype(np.float32)
    whole = jax.jit(lambda v, x: model.apply(v, x, train=False)[0])
    step = jax.jit(lambda v, x, s: model.apply(v, x, s, method="stream"), donate_argnums=2)
    expected, far = (np.asarray(whole(variables, x)) for x in (video, video[:, :4]))
    assert np.abs(expected - far).max() > 1e-4 * np.abs(expected).max()  # the frames that follow matter
    for seed in range(3):
        state, first, lengths = model.initial_state(2, 16, 16), 0, pieces(seed)
        shapes = jax.tree.map(np.shape, state)
        for n in lengths:
            logits, state = step(variables, video[:, first : first + n], state)
            first += n
        assert jax.tree.map(np.shape, state) == shapes  # of one size, however long the video
        np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max(), err_msg=f"cut into {lengths}")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": "frame_pool", "variant": "tsm_resnet18"}, "sees the next frame; choose a variant that does not"),
        ({"name": "lrcn", "variant": "s3", "both": True}, "reads both ways and needs the whole video"),
    ],
)
def test_a_net_that_sees_ahead_has_no_stream(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        models.build(fields, num_classes=3).initial_state(1, 16, 16)


def test_what_is_shifted_where():
    x = np.arange(1, 1 + 3 * 8, dtype=np.float32).reshape(1, 3, 8)
    y, last = shifted_online(x, 4)
    np.testing.assert_array_equal(y[0, :, :2], [[0, 0], *x[0, :2, :2]])
    np.testing.assert_array_equal(y[..., 2:], x[..., 2:])
    np.testing.assert_array_equal(last, x[:, -1:, :2])
    both = shifted(x, 4)
    np.testing.assert_array_equal(both[0, :, :2], [*x[0, 1:, :2], [0, 0]])
    np.testing.assert_array_equal(both[0, :, 2:4], [[0, 0], *x[0, :2, 2:4]])
    np.testing.assert_array_equal(both[..., 4:], x[..., 4:])
