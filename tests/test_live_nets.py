"""Streams of every kind of net equal, on the same frames, what the net says of files: pixels, views, scores and all.

The files are decoded at a short side of their own, resized, cropped and perhaps seen in three crops, so that a stream
that prepares pixels in any other way than `Predictor`, which evaluates as training does, is far from it.
"""

import types

import jax
import numpy as np
import pytest
import tiny

from vidjax import data, evaluate, inputs, models, predict
from vidjax.data import live, modalities, video
from vidjax.predict.live import Options, begin, nets, rows

FRAMES, SIZE, CLASSES = 23, 24, 5
SMALL = (("widths", (8, 16)), ("strides", (2, 2)))
ONLINE = (("depths", (1, 2)), *SMALL, ("stem_width", 8), ("shift", 4), ("online", True))
FLOW = {"modalities": ("flow",), "flow": {"source": "online", "method": "farneback", "bound": 3.0, "stack": 2}}
DIFFERENCE = {"modalities": ("difference",), "flow": {"stack": 1}}
R3D = {"name": "r3d", "variant": "small", "depths": (1, 1), "widths": (4, 8), "strides": (1, 2), "convs": ("3d", "3d")}
LRCN = {"name": "lrcn", "variant": "small", "backbone_fields": SMALL, "hidden": 8}
POOL = {"name": "frame_pool", "variant": "small", "fields": SMALL}
NETS = {  # how it goes along with a stream, model, sections of data
    "movinet": ("Stateful", {"name": "movinet", "variant": "small"}, {}),
    "tsm online": ("Stateful", POOL | {"variant": "tsm_resnet18_online", "fields": ONLINE, "consensus": "logits"}, {}),
    "lstm": ("Stateful", LRCN | {"recurrent": "lstm", "head": "last"}, {}),
    "gru on flow": ("Stateful", LRCN | {"recurrent": "gru", "head": "steps", "mean": 0.0}, FLOW),
    "convolutional lstm": ("Stateful", LRCN, {}),
    "frames alone": ("Framewise", POOL, {}),
    "consensus of probabilities": ("Framewise", POOL | {"consensus": "prob"}, {}),
    "frames alone, flow": ("Framewise", POOL | {"mean": 0.0, "std": 0.5}, FLOW),
    "relations": ("Framewise", {"name": "trn", "variant": "small", "fields": SMALL}, {}),
    "temporal convolution": ("Framewise", {"name": "tcn", "variant": "small"}, {}),
    "attention": ("Framewise", {"name": "frame_attention", "variant": "small"}, {}),
    "lstm both ways": ("Framewise", LRCN | {"recurrent": "lstm", "both": True, "head": "last"}, {}),
    "tsm": (
        "Windows",
        POOL | {"variant": "tsm_resnet18", "fields": (*ONLINE[:-1],), "consensus": "logits"},
        {},
    ),
    "3-d": ("Windows", R3D, {}),
    "3-d on differences": ("Windows", R3D | {"mean": 0.0}, DIFFERENCE),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A file of moving noise, 52 x 40 pixels, 20 frames a second."""
    path, rng = tmp_path_factory.mktemp("clip") / "noise.mp4", np.random.RandomState(0)
    big = np.kron(rng.rand(10, 13, 3), np.ones((4, 4, 1)))
    shades = (1 - 0.03 * t for t in range(FRAMES))
    video.write(path, np.stack([(255 * s * np.roll(big, 2 * t, 1)).astype(np.uint8) for t, s in enumerate(shades)]), 20)
    return str(path)


def predictor_of(model, sections, *, size=6, stride=2, crops=1, sampler="random_clip", average="prob"):
    """A predictor with a net of random weights whose classes differ."""
    cfg = tiny.make_config("unused")
    cfg.model = model
    cfg.data.update(sections | {"short_side": 36, "clip": {"sampler": sampler, "size": size, "stride": stride}})
    cfg.data.augment.size = SIZE
    cfg.eval.update({"size": SIZE, "resize": 30, "crops": crops, "average": average})
    net, names = models.build(cfg.model, num_classes=CLASSES), [f"class {i}" for i in range(CLASSES)]
    meta = evaluate.meta(cfg, net, types.SimpleNamespace(classes=names, multi_label=False))
    predictor = predict.Predictor(loaded=(weights(net, data.options(cfg.data), size), meta))
    predictor.at_once = 1
    return predictor


def weights(net, section, size):
    """Random variables by which two clips' scores are as far apart as those of any of several scales."""
    rng = np.random.RandomState(1)
    wire = modalities.zeros(section, size, SIZE)
    wire = {
        key: rng.randint(0, 256, (2, *x.shape)) * np.array([1, 0.6]).reshape(2, *[1] * x.ndim)
        for key, x in wire.items()
    }
    seen = inputs.preparer(section)({key: x.astype(np.uint8) for key, x in wire.items()})
    made = jax.jit(lambda x: net.init(jax.random.key(0), x, train=False))(seen)
    noise = jax.tree.map(lambda x: rng.standard_normal(np.shape(x)), made["params"])
    scores = jax.jit(lambda v: jax.nn.softmax(net.apply(v, seen, train=False)[0]))

    def grown(scale):
        return made | {"params": jax.tree.map(lambda x, n: np.float32(x + scale * n), made["params"], noise)}

    return grown(max((0.03, 0.07, 0.15, 0.3), key=lambda scale: np.ptp(scores(grown(scale)), axis=0).max()))


def followed(predictor, source, **options):
    """The predictions of a stream, none of whose frames is dropped."""
    counts, found = begin(predictor, source, Options(pace=False, **options))
    return list(found), counts


def offline(predictor, path, indices):
    """Scores of one clip of a file, whatever its length: `data.read_views` and `eval_step`."""
    record = {"id": "noise", "path": path, "error": ""} | video.probe(path)
    views = data.read_views(predictor.section, predictor.meta["preprocess"], record, np.asarray(indices)[None])
    return np.asarray(predictor.batch([views]))[0]


def last_index(predictor):
    """One past the last frame of the file that the net can be asked for."""
    first, length = modalities.room(predictor.section, FRAMES)
    return first + length


@pytest.mark.parametrize("net", [*NETS])
def test_a_stream_says_what_the_net_says_of_files(net, clip):
    kind, model, sections = NETS[net]
    predictor = predictor_of(model, sections)
    assert type(nets.make(predictor)).__name__ == kind
    end, size, far = last_index(predictor), 6, []
    found, counts = followed(predictor, clip, every=1, memory=-1)
    firsts = range(0, end, 2)
    assert (counts.frames, counts.chosen, counts.dropped) == (FRAMES, len(firsts), 0)
    assert [round(20 * one.time) for one in found] == [*firsts][0 if kind == "Stateful" else size - 1 :]
    for one in found:
        newest = round(20 * one.time)
        indices = range(0, newest + 1, 2)[0 if kind == "Stateful" else -size :]
        if kind == "Stateful" and len(indices) not in (2, 11):
            continue  # each length of clip is compiled anew offline
        expected = offline(predictor, clip, indices)
        np.testing.assert_allclose(one.scores, expected, atol=1e-5, err_msg=f"up to frame {newest}")
        far.append(expected)
    assert np.abs(np.diff(far, axis=0)).max() > 1e-4  # a net that says the same of everything proves nothing


@pytest.mark.parametrize(("net", "average"), [("lstm", "logit"), ("relations", "prob"), ("3-d", "logit")])
def test_crops_are_averaged_as_in_an_evaluation(net, average, clip):
    kind, model, sections = NETS[net]
    three = predictor_of(model, sections, crops=3, average=average)
    found, _ = followed(three, clip, memory=-1, every=1)
    one = next(one for one in found if round(20 * one.time) == 10)
    expected = offline(three, clip, range(0, 11, 2))
    np.testing.assert_allclose(one.scores, expected, atol=1e-5)
    alone = offline(predictor_of(model, sections, average=average), clip, range(0, 11, 2))
    assert np.abs(expected - alone).max() > 1e-4


def test_windows_and_features_are_predicted_from_every_so_often(clip):
    predictor = predictor_of(*NETS["3-d"][1:])
    assert [round(20 * one.time) for one in followed(predictor, clip)[0]] == [10, 12, 14, 16, 18, 20, 22]
    assert [round(20 * one.time) for one in followed(predictor, clip, every=3)[0]] == [10, 16, 22]


def test_a_state_gives_way_to_a_successor_that_has_seen_a_clip(clip):
    predictor = predictor_of(*NETS["lstm"][1:], size=3, stride=1)
    found, _ = followed(predictor, clip, memory=5 / 25)  # seconds of 25 frames: renewed after 5, 2 of them seen twice
    for last, first in ((4, 0), (5, 3), (7, 3), (8, 6), (22, 18)):
        expected = offline(predictor, clip, range(first, last + 1))
        np.testing.assert_allclose(found[last].scores, expected, atol=1e-5, err_msg=f"up to frame {last}")
    state = nets.make(predictor)
    assert (state.memory, state.overlap) == (6, 3)  # two clips' frames, unless asked for


def test_a_short_stream_is_filled_as_short_files_are(clip, tmp_path):
    short = str(tmp_path / "short.mp4")
    video.write(short, video.read(clip, np.arange(4)), 20)
    for net in ("3-d", "relations"):
        predictor = predictor_of(*NETS[net][1:], stride=1)
        (one,), _ = followed(predictor, short)
        np.testing.assert_allclose(one.scores, predictor(short)["scores"][0], atol=1e-5)


def test_a_net_of_whole_videos_has_its_frames_from_ten_seconds():
    assert rows.rate({"sampler": "tsm_segments", "size": 25, "stride": 1}) == 2.5
    assert rows.rate({"sampler": "segments", "size": 1, "stride": 1}) == 1
    assert rows.rate({"sampler": "random_clip", "size": 50, "stride": 5}) == 5
    assert rows.rate({"sampler": "tsm_dense", "size": 8, "stride": 1}) == 25 / 8
    assert rows.rate({"sampler": "random_clip", "size": 50, "stride": 5}, 12.5) == 12.5


def test_a_net_of_whole_videos_sees_frames_by_their_times(clip):
    predictor = predictor_of(*NETS["relations"][1:], sampler="segments", size=4)
    found, counts = followed(predictor, clip, rate=5.0)  # of 20
    assert counts.chosen == 6
    assert [round(20 * one.time) for one in found] == [12, 16, 20]
    np.testing.assert_allclose(found[0].scores, offline(predictor, clip, [0, 4, 8, 12]), atol=1e-5)


def test_what_a_stream_does_not_have_is_said(clip):
    predictor = predictor_of(*NETS["frames alone"][1:])
    predictor.section["modalities"] = ("rgb", "audio")
    with pytest.raises(ValueError, match="this net sees audio too, so it needs whole files"):
        begin(predictor, clip)
    predictor.section.update(modalities=("flow",), flow=predictor.section["flow"] | {"source": "stored"})
    with pytest.raises(ValueError, match="a stream has no stored flow"):
        begin(predictor, clip)


def test_rows_are_those_of_read_views(clip):
    """The one path for pixels, by its name: what a row holds is what `data.read_views` gives of a file's frame."""
    predictor = predictor_of(*NETS["gru on flow"][1:], crops=3)
    views = predictor.meta["preprocess"]
    found = rows.rows(live.frames(clip, pace=False), predictor.section, views, lambda first: rows.every(first, 3))
    record = {"id": "noise", "path": clip, "error": ""} | video.probe(clip)
    for number, row in enumerate(found):
        expected = data.read_views(predictor.section, views, record, np.array([[3 * number]]))
        tiny.assert_equal(row.inputs, expected)
    assert number == (FRAMES - 2 - 1) // 3
