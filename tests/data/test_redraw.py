"""A drawn copy of a video keeps its pictures' number, size, times and shape, and its sound."""

import fractions

import av
import numpy as np
import pytest
import test_video

from vidjax.data import redraw, video


def mark(number, picture):
    """Makes the upper half of a picture as bright as twice its number."""
    picture[: len(picture) // 2] = 2 * number % 256


def with_sound(path, codec, rate=16000, late=0.0):
    """A second and a half of numbered pictures, which begin `late` seconds after a tone."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream(codec, rate=rate, layout="mono")
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = test_video.WIDTH, test_video.HEIGHT, "yuv420p"
        wave = np.sin(np.arange(2 * rate) / rate * 440 * 2 * np.pi)
        frame = av.AudioFrame.from_ndarray((20000 * wave).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, fractions.Fraction(1, rate)
        for part in av.AudioResampler(sound.codec_context.format, "mono", rate).resample(frame):
            container.mux(sound.encode(part))
        for i in range(30):
            picture = av.VideoFrame.from_ndarray(test_video.picture(i), format="rgb24")
            picture.pts, picture.time_base = i + round(20 * late), fractions.Fraction(1, 20)
            container.mux(stream.encode(picture))
        container.mux([*stream.encode(None), *sound.encode(None)])
    return str(path)


def heard(path):
    """(codec, samples, their rate, when they begin) of a file's sound."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        samples = np.concatenate([frame.to_ndarray().mean(0) for frame in frames])
        return stream.codec_context.name, samples, stream.rate, frames[0].time


@pytest.mark.parametrize("name", ["b_frames.mp4", "b_frames.avi", "open_gop.mkv", "frames.webm"])
def test_every_picture_is_drawn_on_and_shown_as_long(name, tmp_path):
    codec, options = test_video.SEQUENCES[name]
    path, copy = str(test_video.encode(tmp_path / name, codec, **options)), str(tmp_path / "out.mp4")
    redraw.copy(path, copy, mark)
    found = video.read(copy, range(test_video.FRAMES))
    upper = found[:, : test_video.HEIGHT // 2].mean((1, 2, 3))
    np.testing.assert_allclose(upper, 2 * np.arange(test_video.FRAMES), atol=3)  # H.264 loses a little
    lower = video.read(path, range(test_video.FRAMES))[:, test_video.HEIGHT // 2 + 8 :].astype(int)
    assert np.abs(found[:, test_video.HEIGHT // 2 + 8 :] - lower).mean() < 4  # H.264 again, the seam left out
    np.testing.assert_allclose(video.times(copy), video.times(path), atol=2e-5)  # a tick is 1/90000 s
    assert video.probe(copy)["fps"] == pytest.approx(video.probe(path)["fps"], rel=1e-4)  # of rounded times


@pytest.mark.parametrize("fps", [12, 28, fractions.Fraction(24000, 1001), fractions.Fraction(30000, 1001)])
def test_a_constant_rate_stays_exact(fps, tmp_path):
    video.write(tmp_path / "in.mp4", (test_video.picture(i) for i in range(9)), fps=fps)
    redraw.copy(tmp_path / "in.mp4", tmp_path / "out.mp4", mark)
    assert video.probe(tmp_path / "out.mp4") == video.probe(tmp_path / "in.mp4")


def test_a_variable_rate_stays_variable(tmp_path):
    shown = np.cumsum(np.random.default_rng(0).integers(5, 90, test_video.FRAMES)).tolist()
    path = test_video.encode(tmp_path / "uneven.mkv", "libx264", shown, {"g": "24", "bf": "3"})
    redraw.copy(path, tmp_path / "out.mp4", mark)
    np.testing.assert_allclose(video.times(tmp_path / "out.mp4")[:-1], video.times(path)[:-1], atol=2e-5)  # a tick


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_video_is_upright(golden, degrees, tmp_path):
    path = golden / "video" / "awkward" / f"video_{degrees}.mov"
    redraw.copy(path, tmp_path / "out.mp4", lambda number, picture: None)
    with av.open(str(tmp_path / "out.mp4")) as container:
        frame = next(container.decode(video=0))
        assert frame.rotation == 0
        assert (frame.width, frame.height) == ((320, 568) if degrees % 180 else (568, 320))
    assert np.abs(video.read(tmp_path / "out.mp4", [0]).astype(int) - video.read(path, [0])).mean() < 4  # H.264


def test_pixels_keep_their_shape(golden, tmp_path):
    redraw.copy(golden / "video" / "clips" / "demo.mp4", tmp_path / "out.mp4", mark)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == fractions.Fraction(64, 51)


def test_odd_sizes_and_one_picture(tmp_path):
    video.write(tmp_path / "in.mp4", np.zeros((1, 35, 51, 3), np.uint8))
    redraw.copy(tmp_path / "in.mp4", tmp_path / "out.mp4", lambda number, picture: picture.fill(200))
    found = video.read(tmp_path / "out.mp4", [0])
    assert found.shape == (1, 35, 51, 3)
    assert abs(found.mean() - 200) < 3  # H.264


@pytest.mark.parametrize(("name", "codec"), [("in.mp4", "aac"), ("in.mkv", "mp3"), ("in.ts", "aac"), ("in.avi", "mp3")])
def test_sound_that_mp4_knows_is_copied(name, codec, tmp_path):
    path = with_sound(tmp_path / name, codec)
    redraw.copy(path, tmp_path / "out.mp4", mark)
    before, after = packets(path), packets(tmp_path / "out.mp4")
    assert len(before) == len(after)
    for (then, old), (now, new) in zip(before, after, strict=True):
        assert old.endswith(new)  # a transport stream's packets have a header besides
        assert len(old) - len(new) <= 7
        assert now - after[0][0] == pytest.approx(then - before[0][0], abs=0.0011)  # Matroska rounds to 1 ms


def packets(path):
    """(second, bytes) of the packets of a file's sound."""
    with av.open(str(path)) as container:
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(audio=0) if p.size]


@pytest.mark.parametrize(("name", "codec"), [("in.mkv", "pcm_s16le"), ("in.avi", "pcm_s16le")])
def test_other_sound_becomes_aac(name, codec, tmp_path):
    path = with_sound(tmp_path / name, codec)
    redraw.copy(path, tmp_path / "out.mp4", mark)
    kind, samples, rate, _ = heard(tmp_path / "out.mp4")
    assert (kind, rate) == ("aac", 16000)
    middle = samples[rate // 2 : rate // 2 + rate]
    assert np.abs(np.fft.rfft(middle)).argmax() == 440  # the tone


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_sound_before_the_pictures_stays_before_them(codec, tmp_path):
    path = with_sound(tmp_path / "in.mkv", codec, late=0.5)
    redraw.copy(path, tmp_path / "out.mp4", mark)
    assert video.times(path)[0] == pytest.approx(0.5, abs=0.025)  # AAC's delay before the first sample
    assert video.times(tmp_path / "out.mp4")[0] == pytest.approx(video.times(path)[0], abs=0.065)  # a packet of AAC
    assert heard(tmp_path / "out.mp4")[3] == pytest.approx(0, abs=0.065)


def test_what_fails_leaves_nothing(tmp_path):
    video.write(tmp_path / "in.mp4", np.zeros((5, 32, 32, 3), np.uint8))

    def fail(number, picture):
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        redraw.copy(tmp_path / "in.mp4", tmp_path / "out.mp4", fail)
    with pytest.raises(FileNotFoundError):
        redraw.copy(tmp_path / "in.mp4", tmp_path / "none" / "out.mp4", mark)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]
