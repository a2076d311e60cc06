"""One pass over a file gives the frames that random access gives, holds few of them, and knows when each is shown."""

import fractions
import itertools

import av
import numpy as np
import pytest
import test_video

from vidjax.data import forward, packets, video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    codec, options = test_video.SEQUENCES["b_frames.mp4"]
    return str(test_video.encode(tmp_path_factory.mktemp("clip") / "clip.mp4", codec, **options))


@pytest.mark.parametrize("wanted", [range(60), range(0, 60, 7), (3, 4, 58), (59,)])
@pytest.mark.parametrize("pixels", ["rgb", "yuv420"])
def test_pictures_are_those_of_random_access(clip, wanted, pixels):
    found = list(video.forward(clip, list(wanted), 48, pixels))
    np.testing.assert_array_equal(np.stack(found), video.read(clip, list(wanted), 48, pixels))


@pytest.mark.parametrize("degrees", [90, 270])
def test_turned_pictures_are_upright(golden, degrees):
    path = str(golden / "video" / "awkward" / f"video_{degrees}.mov")
    assert next(video.forward(path, [0])).shape == (568, 320, 3)


def test_it_decodes_no_further_than_asked(clip, monkeypatch):
    stored, store = [], video.store
    monkeypatch.setattr(video, "store", lambda *args: stored.append(1) or store(*args))
    list(itertools.islice(video.forward(clip, range(60)), 5))
    assert len(stored) == 5


def test_a_frame_past_the_end_is_named(clip):
    with pytest.raises(video.VideoError, match="frame 60 cannot be decoded, there are only 60 frames"):
        next(video.forward(clip, [0, 60]))


def test_clips_share_frames_and_the_rest_is_forgotten(clip):
    windows = [np.arange(start, start + 16, 2) for start in range(0, 40, 4)]
    reader = forward.Forward(clip, np.unique(windows))
    for window in windows:
        reader.forget(window[0])
        np.testing.assert_array_equal(reader(window), video.read(clip, window))
        assert len(reader.kept) <= 8
    with pytest.raises(KeyError):
        reader([0])


def test_times_are_frames_over_fps_where_the_rate_is_constant(tmp_path):
    path = tmp_path / "clip.mp4"
    for fps in (12, 25, fractions.Fraction(30000, 1001)):
        video.write(path, (test_video.picture(i) for i in range(20)), fps=fps)
        np.testing.assert_allclose(video.times(path), np.arange(21) / float(fps), rtol=1e-12)  # float64's rounding


@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv"])
def test_times_of_a_variable_rate_are_the_files_own(name, tmp_path):
    shown = np.cumsum(np.random.default_rng(0).integers(5, 90, test_video.FRAMES))
    path = test_video.encode(tmp_path / name, "libx264", shown.tolist(), {"g": "24", "bf": "3"})
    found = video.times(path)
    np.testing.assert_allclose(found[:-1], (shown - shown[0]) / 1000, atol=0.0011)  # containers round to 1 ms
    assert found[-1] - found[-2] == pytest.approx(1 / video.probe(path)["fps"], rel=1e-9)


@pytest.mark.parametrize("name", ["no_times.h264", "b_frames.avi"])
def test_files_that_hardly_know_their_times(name, tmp_path):
    codec, options = test_video.SEQUENCES[name]
    path = test_video.encode(tmp_path / name, codec, **options)
    np.testing.assert_allclose(video.times(path), np.arange(test_video.FRAMES + 1) / 25, rtol=1e-9)  # rounding


def test_one_picture_is_shown_for_a_while(tmp_path):
    video.write(tmp_path / "one.mp4", [test_video.picture(0)], fps=10)
    np.testing.assert_array_equal(video.times(tmp_path / "one.mp4"), [0, 0.1])


def test_pictures_that_begin_after_the_sound(tmp_path):
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = test_video.WIDTH, test_video.HEIGHT, "yuv420p"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(sound.encode(frame))
        for i in range(10):
            picture = av.VideoFrame.from_ndarray(test_video.picture(i), format="rgb24")
            picture.pts, picture.time_base = i + 5, fractions.Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux([*stream.encode(None), *sound.encode(None)])
    np.testing.assert_allclose(video.times(path), 0.2 + np.arange(11) / 25, atol=0.0011)  # Matroska rounds to 1 ms


def test_golden_files_have_a_time_for_every_frame(golden):
    for path in sorted(golden.glob("video/*/*.*")):
        if path.name == "corrupted.mp4":
            continue
        found, info = video.times(path), video.probe(path)
        assert len(found) == info["num_frames"] + 1, path
        assert (np.diff(found) > 0).all(), path
        assert found[-1] - found[0] == pytest.approx(info["duration"]), path


def test_ranked_times_are_left_out_where_two_pictures_share_one():
    columns = [packets.array.array("q", column) for column in ([0, 0], [0, 1], [0, 9], [9, 9])]
    assert packets.order(packets.Packets(*columns, bytearray([1, 0]))).times.size == 0
