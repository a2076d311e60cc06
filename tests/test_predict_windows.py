"""Windows cover a video as its net was trained; segments are those that a look at every frame gives."""

import numpy as np
import pytest
import tiny

from vidjax import data, inputs
from vidjax.data import clips, forward, video
from vidjax.predict import segments, windows


def section(sampler="random_clip", size=8, stride=2, **options):
    return data.options({"clip": {"sampler": sampler, "size": size, "stride": stride}} | options)


@pytest.mark.parametrize("length", [1, 7, 15, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize("hop", ["", "1f", "5f", "40f"])
def test_windows_are_clips_one_after_another(length, hop):
    indices, spans = windows.cut(section(), length, 10.0, hop)
    expected = clips.windows(length, 8, 2, int(hop[:-1]) if hop else 16)
    np.testing.assert_array_equal(indices, expected)
    assert spans[0, 0] == 0
    assert spans[-1, 1] == length
    assert (spans[:, 0] < spans[:, 1]).all()
    if hop != "40f":  # otherwise there are gaps
        assert set(range(length)) == {frame for a, b in spans for frame in range(a, b)}


@pytest.mark.parametrize(("sampler", "reach"), [("linspace_clip", 16), ("tsm_dense", 64)])
def test_other_clips_of_consecutive_frames_slide_too(sampler, reach):
    indices, spans = windows.cut(section(sampler), 200, 10.0)
    assert spans[:3, 0].tolist() == [0, reach, 2 * reach]
    assert all(a <= frames.min() and frames.max() < b for frames, (a, b) in zip(indices, spans, strict=True))
    np.testing.assert_array_equal(indices[1], reach + clips.evaluation(sampler, reach, 8, 2, 1)[0])


def test_a_net_of_whole_videos_has_one_window_or_pieces():
    indices, spans = windows.cut(section("segments"), 100, 25.0)
    np.testing.assert_array_equal(indices, clips.evaluation("segments", 100, 8, 2, 1))
    assert spans.tolist() == [[0, 100]]
    indices, spans = windows.cut(section("segments"), 100, 25.0, window="1s", stride="0.8s")
    assert spans.tolist() == [[0, 25], [20, 45], [40, 65], [60, 85], [75, 100]]
    np.testing.assert_array_equal(indices[1], 20 + clips.evaluation("segments", 25, 8, 2, 1)[0])
    assert windows.cut(section("segments"), 10, 25.0, window="1s")[1].tolist() == [[0, 10]]


def test_flow_stays_inside_the_video():
    cfg = section(modalities=("flow",), flow={"stack": 5})
    indices, spans = windows.cut(cfg, 40, 25.0)
    assert indices.max() == 40 - 5 - 1
    assert (spans[0, 0], spans[-1, 1]) == (0, 40)


@pytest.mark.parametrize("text", ["0.5", "5", "x", "0s", "-1s", "1.5f", "1 h"])
def test_a_stride_names_its_unit(text):
    with pytest.raises(ValueError, match=r"--stride is a time such as 0.5s or a number of frames such as 8f, not '"):
        windows.frames(text, 25, "stride")


def test_seconds_and_frames():
    found = [windows.frames(text, 30000 / 1001, "stride") for text in ("", "0.5s", "1 s", "8f", "0.001s")]
    assert found == [0, 15, 30, 8, 1]


def test_a_window_is_no_choice_where_clips_are():
    with pytest.raises(ValueError, match="clips of 8 frames at stride 2, so windows are as long as these"):
        windows.cut(section(), 100, 25.0, window="1s")


@pytest.mark.parametrize("options", [{}, {"modalities": ("rgb", "flow"), "flow": {"stack": 2}}])
def test_one_pass_shows_a_net_what_reading_at_once_shows(options, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 32, 48, 3), np.uint8)
    video.write(tmp_path / "noise.mp4", noise)
    cfg, how = section(**options), {"size": 24, "resize": 0, "crops": 3}
    record = {"id": "noise", "path": str(tmp_path / "noise.mp4"), "num_frames": 40}
    indices, _ = windows.cut(cfg, 40, 25.0, "3f")
    expected = data.read_views(cfg, how, record, indices)
    found = data.stacked(list(windows.views(cfg, how, record, indices)), np.concatenate)
    tiny.assert_equal(found, expected)
    assert set(inputs.preparer(cfg)(found)) if options else True


def test_one_pass_decodes_once_and_holds_little(tmp_path, monkeypatch):
    video.write(tmp_path / "long.mp4", np.zeros((120, 16, 16, 3), np.uint8))
    stored, held, store = [], [], video.store
    monkeypatch.setattr(video, "store", lambda *args: stored.append(1) or store(*args))
    call = forward.Forward.__call__
    monkeypatch.setattr(
        forward.Forward, "__call__", lambda self, *args: (call(self, *args), held.append(len(self.kept)))[0]
    )
    cfg = section(size=4, stride=1)
    record = {"id": "long", "path": str(tmp_path / "long.mp4"), "num_frames": 120}
    indices, _ = windows.cut(cfg, 120, 25.0, "1f")
    assert len(list(windows.views(cfg, {"size": 16, "resize": 0, "crops": 1}, record, indices))) == 117
    assert len(stored) == 120
    assert max(held) == 4


def by_frame(scores, spans, threshold, multi_label):
    """For each class, the frames of windows that have it: a moment belongs to the window whose middle is nearest."""
    middles = spans.sum(1) / 2
    on = {}
    for frame in range(spans[-1, 1]):
        distance = np.abs(frame + 0.5 - middles)
        i = int(distance.argmin())
        for k, score in enumerate(scores[i]):
            if score >= threshold and (multi_label or k == scores[i].argmax()):
                on.setdefault(k, set()).add(frame)
    return on


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("hop", [4, 8, 14])
def test_segments_are_those_of_every_frame(hop, multi_label):
    rng = np.random.default_rng(hop)
    for _ in range(50):
        starts = np.arange(rng.integers(1, 12)) * hop
        spans = np.stack([starts, starts + 8], 1)
        scores = rng.dirichlet(np.ones(3), len(spans)).round(2)
        found = segments.merge(scores, spans, 0.4, multi_label)
        expected = by_frame(scores, spans, 0.4, multi_label)
        seen = {}
        for one in found:
            frames = set(range(*one["frames"]))
            assert not frames & seen.setdefault(one["class"], set())
            seen[one["class"]] |= frames
        assert seen == expected
        for a in found:  # none could be longer
            assert not any(a["class"] == b["class"] and a["frames"][1] == b["frames"][0] for b in found)
        assert found == sorted(found, key=lambda one: one["frames"])


def test_a_segments_score_is_its_windows_mean_and_its_times_the_files():
    scores = np.array([[0.6, 0.4], [0.8, 0.2], [0.1, 0.9]])
    result = {"scores": scores, "frames": np.array([[0, 10], [10, 20], [15, 25]]), "times": np.arange(26) / 12}
    first, second = segments.named(result, ["walk", "run"])
    assert (first["label"], first["windows"], first["frames"]) == ("walk", 2, (0, 17))
    assert first["score"] == pytest.approx(0.7)
    assert (first["start"], first["end"]) == (0, 17 / 12)
    assert (second["label"], second["start"], second["end"]) == ("run", 17 / 12, 25 / 12)
    assert segments.named(result, ["walk", "run"], 0.95) == []
