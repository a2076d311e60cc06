"""Sound is written here sample by sample, so that what a read gives is known; features have oracles in plain NumPy."""

import fractions
import math

import av
import numpy as np
import pytest

from vidjax.data import audio, records, video

PCM = {"sound.avi": "pcm_s16le", "sound.mkv": "pcm_s16le", "sound.mov": "pcm_s16le"}


def make(path, sound, rate, codec="pcm_s16le", seconds=4, delay=0.0, skip=()):
    """A film of `sound` (channels, n) in [-1, 1]: its pictures begin `delay` s late, its sound lacks packets `skip`."""
    with av.open(str(path), "w") as container:
        pictures = None
        if seconds:
            pictures = container.add_stream("mpeg4", rate=25)
            pictures.width, pictures.height, pictures.pix_fmt = 32, 32, "yuv420p"
        layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
        voice = container.add_stream(codec, rate=rate, layout=layout)
        for number in range(seconds * 25):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number + round(delay * 25), fractions.Fraction(1, 25)
            container.mux(pictures.encode(frame))
        if pictures:
            container.mux(pictures.encode(None))
        coded = [voice.encode(frame) for frame in pieces(sound, rate, voice)] + [voice.encode(None)]
        for number, packet in enumerate(packet for group in coded for packet in group):
            if number not in skip:
                container.mux(packet)
    return str(path)


def pieces(sound, rate, voice, size=1024):
    """Frames of 1024 samples in the encoder's format."""
    name = voice.codec_context.format.name
    scale, kind = {"s16": (32767, np.int16), "s32": (2**31 - 128, np.int32), "u8": (127, np.uint8)}.get(
        name.removesuffix("p"), (1, np.float32)
    )
    sound = (np.asarray(sound, np.float64) * scale + 128 * (kind == np.uint8)).astype(kind)
    for at in range(0, sound.shape[1], size):
        part = np.ascontiguousarray(sound[:, at : at + size])
        planes = part if name.endswith("p") else part.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(planes, format=name, layout=voice.codec_context.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = rate, at, fractions.Fraction(1, rate)
        yield frame


def noise(rate, seconds=4, channels=1):
    """Noise of 16 bits, so that PCM keeps it exactly."""
    drawn = np.random.default_rng(0).integers(-16000, 16000, (channels, rate * seconds))
    return (drawn + 0.25 * np.sign(drawn)) / 32767  # the quarter keeps truncation from crossing a whole number


def click(at, rate, seconds=4):
    sound = np.zeros((1, rate * seconds))
    sound[0, round(at * rate)] = 0.9
    return sound


def sine(frequency, rate, seconds=4):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(rate * seconds) / rate)[None]


def band_of(frequency, bands=64):
    """Which band's triangle has its peak nearest to a frequency, on the mel scale."""
    mel = [1127 * math.log(1 + hertz / 700) for hertz in (125, 7500, frequency)]
    return round((mel[2] - mel[0]) / ((mel[1] - mel[0]) / (bands + 1))) - 1


@pytest.mark.parametrize("name", PCM)
@pytest.mark.parametrize(("start", "end"), [(0, 1), (0.3, 0.9), (1.37, 2.0003), (2.5, 3.9), (3, 4)])
def test_every_sample_is_the_tracks(name, start, end, tmp_path):
    sound = noise(16000)
    path = make(tmp_path / name, sound, 16000)
    samples, real = audio.read(path, start, end)
    first, count = round(start * 16000), round((end - start) * 16000)
    expected = np.trunc(sound[0, first : first + count] * 32767) / 32768
    at = slice(None)
    if name == "sound.mkv" and start > 1:  # its clock ticks in milliseconds: the seek may be 8 samples off
        shifts = {k: np.abs(samples[8:-8] - np.roll(expected, k)[8:-8]).max() for k in range(-8, 9)}
        expected, at = np.roll(expected, min(shifts, key=shifts.get)), slice(8, -8)
    np.testing.assert_array_equal(samples[at], expected[at])
    assert (samples.dtype, real) == (np.float32, count)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_resampling_is_that_of_the_whole_track(rate, tmp_path):
    """Any piece is a piece of the whole, and the whole agrees with an ideal low pass."""
    path = make(tmp_path / "sound.mov", sine(440, rate) + sine(2900, rate), rate)
    whole, real = audio.read(path, 0, 4)
    assert real == len(whole) == 64000
    for start, end in ((0.01, 0.6), (1.2345, 2), (2.3, 3.99)):
        first = round(start * 16000)
        piece, _ = audio.read(path, start, end)
        np.testing.assert_array_equal(piece, whole[first : first + len(piece)])
    expected = (sine(440, 16000) + sine(2900, 16000))[0]
    middle = slice(1600, -1600)  # the track's ends are no sines
    assert np.abs(whole - expected)[middle].max() < 3e-4  # 16-bit samples, and the filter's ripple


def test_sound_above_half_the_rate_is_gone(tmp_path):
    path = make(tmp_path / "sound.mov", sine(9500, 48000), 48000)
    samples, _ = audio.read(path, 0.5, 3.5)
    assert np.abs(samples).max() < 1e-3  # of 0.5


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [("a.mp4", "aac", 44100), ("a.mp4", "aac", 48000), ("a.mpg", "mp2", 44100), ("a.webm", "libopus", 48000)],
)
@pytest.mark.parametrize("at", [0.2, 1.7, 3.21])
def test_a_click_is_where_it_was(name, codec, rate, at, tmp_path):
    pictures = 0 if name == "a.webm" else 4  # WebM takes no MPEG-4
    path = make(tmp_path / name, click(at, rate), rate, codec, pictures)
    start = at - 0.15
    samples, _ = audio.read(path, start, start + 0.4)
    ticks = 16 if codec == "libopus" else 0  # Matroska's clock: 1 ms
    assert abs(int(np.abs(samples).argmax()) + round(start * 16000) - round(at * 16000)) <= ticks
    if codec == "aac":
        rows = audio.log_mel(np.abs(samples) * (np.abs(samples) > 0.05)).max(1)
        heard = np.flatnonzero(rows > math.log(audio.OFFSET) + 1)
        hops = [r for r in range(len(rows)) if r * 160 <= 0.15 * 16000 < r * 160 + 400]
        assert set(heard) <= set(hops)
        assert set(hops[1:-1]) <= set(heard)  # at a Hann window's edge it is not heard


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "pcm_s16le"), ("a.ts", "mp2"), ("a.mp4", "aac")])
@pytest.mark.parametrize("start", [0.9, 1, 1.2])
def test_time_begins_with_the_first_picture(name, codec, start, tmp_path):
    path = make(tmp_path / name, click(2.0, 48000), 48000, codec, delay=0.6)
    samples, _ = audio.read(path, start, 2)
    late = int(np.abs(samples).argmax()) - round((1.4 - start) * 16000)
    assert abs(late) <= (16 if name == "a.mkv" else 0)  # Matroska's clock: 1 ms


def test_outside_the_track_is_zero_and_counted(tmp_path):
    sound = noise(16000, 2)
    path = make(tmp_path / "sound.mov", sound, 16000)
    expected = np.trunc(sound[0] * 32767) / 32768
    samples, real = audio.read(path, -0.5, 0.5)
    np.testing.assert_array_equal(samples, np.concatenate([np.zeros(8000), expected[:8000]]))
    assert real == 8000
    samples, real = audio.read(path, 1.75, 2.5)
    np.testing.assert_array_equal(samples, np.concatenate([expected[28000:], np.zeros(8000)]))
    assert real == 4000
    for start in (2, 3.5, -2):
        samples, real = audio.read(path, start, start + 1)
        assert not samples.any()
        assert real == 0


@pytest.mark.parametrize("rate", [16000, 48000])
def test_a_gap_stays_a_gap(rate, tmp_path):
    sound = np.full((1, rate * 4), 0.5)
    path = make(tmp_path / "gap.mkv", sound, rate, skip=range(16, 24))
    samples, real = audio.read(path, 0, 4)
    low, high = (round(number * 1024 / rate * 16000) for number in (16, 24))
    assert real == pytest.approx(64000 - (high - low), abs=32)  # Matroska's clock: 1 ms at either side
    assert np.abs(samples[low + 64 : high - 64]).max() < 1e-3
    assert samples[: low - 64][64:] == pytest.approx(0.5, abs=1e-3)
    assert samples[high + 64 : -64] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_s32le", "pcm_u8", "pcm_f32le", "aac"])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_averaged_in_every_format(codec, channels, tmp_path):
    sound = np.stack([sine(300 + 200 * k, 48000)[0] for k in range(channels)])
    path = make(tmp_path / "sound.mkv", sound, 48000, codec)
    samples, _ = audio.read(path, 0.5, 0.9)
    mean = np.mean([sine(300 + 200 * k, 16000)[0] for k in range(channels)], 0)[8000:14400]
    frequencies = np.fft.rfft(samples * np.hanning(6400)), np.fft.rfft(mean * np.hanning(6400))
    found, expected = (
        np.abs(spectrum)[[(300 + 200 * k) * 2 // 5 for k in range(channels)]] for spectrum in frequencies
    )
    heard = slice(None) if codec != "aac" or channels < 6 else [0, 1, 2, 4, 5]  # AAC's LFE stops at 120 Hz
    np.testing.assert_allclose(found[heard], expected[heard], rtol=0.02)  # 8 bits, or a lossy codec


@pytest.mark.parametrize("frequency", [440, 1000, 3000, 7000])
def test_a_sine_is_in_its_band(frequency, tmp_path):
    path = make(tmp_path / "sine.mp4", sine(frequency, 44100), 44100, "aac")
    record = {"path": path, "fps": 25.0}
    for options in ({"kind": "vggish", "examples": 2}, {"frames": 50, "bands": 64}):
        rows, present = audio.clip(record, np.arange(25, 75), **options)
        assert present == 1
        assert set(rows.reshape(-1, 64).argmax(1)) == {band_of(frequency)}


def test_bytes_and_paths_read_alike(tmp_path):
    path = make(tmp_path / "sound.mp4", sine(700, 44100), 44100, "aac")
    with open(path, "rb") as file:
        content = file.read()
    for start in (0.2, 2.2):
        np.testing.assert_array_equal(audio.read(content, start, 3)[0], audio.read(path, start, 3)[0])
    odd = tmp_path / "latin\udce9.mp4"
    odd.write_bytes(content)
    np.testing.assert_array_equal(audio.read(str(odd), 0.2, 3)[0], audio.read(path, 0.2, 3)[0])


@pytest.mark.parametrize("name", ["bbaf2n.mpg", "brbk7n.mpg", "lbax4n.mpg", "bento.mp4", "small.mp4"])
def test_golden_sound_beside_an_ideal_resampler(name, golden):
    """Every frame from the first on, each sample of the result a sum of sinc functions."""
    path = str(golden / "video" / "sound" / name)
    with av.open(path) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        rate, first = frames[0].sample_rate, float(frames[0].pts * stream.time_base)
    track = np.concatenate([frame_mean(frame) for frame in frames])
    for start in (0.3, 1.8) if name != "bento.mp4" else (0.3,):
        samples, real = audio.read(path, start, start + 0.2)
        assert real == 3200
        times = (np.round(start * 16000) + np.arange(3200)) / 16000 - first
        expected = sinc_resample(track, rate, times)
        error, signal = (np.abs(np.fft.rfft(x * np.hanning(3200)))[:1400] for x in (samples - expected, expected))
        assert np.linalg.norm(error) < 1e-3 * np.linalg.norm(signal)  # below 7 kHz; above, the two roll off otherwise


def frame_mean(frame):
    x = frame.to_ndarray().astype(np.float64)
    channels = len(frame.layout.channels)
    x = x if frame.format.is_planar else x.reshape(-1, channels).T
    return x.mean(0) / (32768 if "s16" in frame.format.name else 1)


def sinc_resample(track, rate, times, reach=400, cut=7700):
    """A windowed ideal low pass at `cut` Hz, evaluated at any times."""
    near = np.round(times * rate).astype(int)[:, None] + np.arange(-reach, reach + 1)
    away = near / rate - times[:, None]
    weights = 2 * cut / rate * np.sinc(2 * cut * away) * (0.5 + 0.5 * np.cos(np.pi * away * rate / (reach + 1)))
    return (np.where((near >= 0) & (near < len(track)), track[near.clip(0, len(track) - 1)], 0) * weights).sum(1)


def test_a_file_without_sound_is_masked(golden):
    path = str(golden / "video" / "clips" / "demo.mp4")
    with pytest.raises(audio.NoAudio, match=r"demo\.mp4: there is no sound track$"):
        audio.read(path, 2, 3)
    for options in ({}, {"kind": "vggish", "examples": 3}, {"frames": 7, "bands": 40}):
        rows, present = audio.clip({"path": path, "fps": 25.0}, [3, 9], **options)
        assert rows.shape == audio.shape(**options)
        assert rows.dtype == present.dtype == np.float32
        assert not rows.any()
        assert present == 0


def test_a_clip_past_the_sound_is_masked(tmp_path):
    path = make(tmp_path / "sound.mp4", sine(700, 44100, 1), 44100, "aac")
    assert audio.clip({"path": path, "fps": 25.0}, np.arange(50, 75))[1] == 0
    assert audio.clip({"path": path, "fps": 25.0}, np.arange(20, 75))[1] == 1


def test_a_clip_of_a_built_data_set(tmp_path, monkeypatch):
    path = make(tmp_path / "sound.mp4", sine(700, 44100), 44100, "aac")
    with open(path, "rb") as file:
        monkeypatch.setattr(records, "encoded", {"a/b.mp4": file.read(), "bad": b"x" * 99}.__getitem__)
    monkeypatch.setattr(records, "encoded", lambda record, read=records.encoded: read(record["id"]))
    record = {"id": "a/b.mp4", "blob": (), "fps": 25.0}
    expected = audio.clip({"path": path, "fps": 25.0}, range(8, 24))[0]
    np.testing.assert_array_equal(audio.clip(record, range(8, 24))[0], expected)
    with pytest.raises(video.VideoError, match=r"^bad: its sound cannot be read \(.+\)$"):
        audio.clip(record | {"id": "bad"}, range(8, 24))


def test_damage_is_a_sentence_that_names_the_file(tmp_path):
    path = make(tmp_path / "sound.mp4", noise(44100), 44100, "aac", seconds=0)
    with open(path, "rb") as file:
        good = bytearray(file.read())
    data = good.index(b"mdat") + 4
    good[data + 30000 : data + 36000] = bytes(k * 37 % 256 for k in range(6000))
    bad = tmp_path / "damaged.mp4"
    bad.write_bytes(good)
    with pytest.raises(video.VideoError, match=r"damaged\.mp4: its sound cannot be read \(.+\)$") as caught:
        audio.read(str(bad), 0, 4)
    assert "\n" not in str(caught.value)
    with pytest.raises(video.VideoError, match=r"damaged\.mp4"):
        audio.clip({"path": str(bad), "fps": 25.0}, range(100))


def test_what_cannot_be_opened_is_a_sentence(tmp_path):
    (tmp_path / "text.mp4").write_bytes(b"no video\n" * 200)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile good.mp4\n")
    (tmp_path / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:4,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
    names = [str(tmp_path / name) for name in ("text.mp4", "list.mp4", "playlist.mp4", "missing.mp4", "")]
    for file in [*names, "http://127.0.0.1:9/clip.mp4", "nul\0.mp4", "concat:a|b", "/dev/zero", b"", b"x" * 500]:
        name = file if isinstance(file, str) else f"video of {len(file)} bytes"
        with pytest.raises(video.VideoError) as caught:
            audio.read(file, 0, 1)
        assert str(caught.value).startswith(f"{name}: its sound cannot be read ("), file


def test_mutated_files_give_sound_or_a_sentence(tmp_path):
    rng, outcomes = np.random.default_rng(1), set()
    for name, codec in (("a.mp4", "aac"), ("a.avi", "mp2"), ("a.mkv", "libopus"), ("a.mov", "pcm_s16le")):
        rate = 48000 if codec == "libopus" else 44100
        path = make(tmp_path / name, noise(rate, 2, channels=2), rate, codec, seconds=1)
        with open(path, "rb") as file:
            good = np.frombuffer(file.read(), np.uint8)
        for trial in range(30):
            bad = good.copy()
            places = rng.integers(0, min(len(bad), 600) if trial % 2 else len(bad), rng.integers(1, 30))
            bad[places] = rng.integers(0, 256, len(places))
            if trial % 5 == 0:
                bad = bad[: rng.integers(1, len(bad))]
            try:
                samples, real = audio.read(bad.tobytes(), 1.2, 1.5)
                assert samples.shape == (4800,)
                assert np.abs(samples).max() <= 1
                assert 0 <= real <= 4800
                outcomes.add("sound" if real else "silence")
            except video.VideoError as error:
                assert str(error).startswith("video of ")  # noqa: PT017
                outcomes.add("sentence")
    assert outcomes == {"sound", "silence", "sentence"}


@pytest.mark.parametrize(
    ("start", "end", "rate"), [(1, 1, 16000), (2, 1, 16000), (0, 601, 16000), (0, math.nan, 16000), (0, 1, 0)]
)
def test_impossible_times(start, end, rate):
    with pytest.raises(ValueError, match="read needs start < end"):
        audio.read("never opened", start, end, rate)


def test_options_that_cannot_be():
    with pytest.raises(ValueError, match="audio.kind must be one of spectrogram, vggish, not 'mfcc'"):
        audio.shape(kind="mfcc")
    with pytest.raises(ValueError, match="of at least 1, got 0, 80, 1"):
        audio.clip({"path": "never opened", "fps": 25.0}, [0], frames=0)
    with pytest.raises(ValueError, match="frames per second, got 0"):
        audio.clip({"path": "never opened", "fps": 0}, [0])


@pytest.mark.parametrize(
    ("indices", "fps", "span"),
    [([0], 25, (0, 0.04)), (range(8, 72, 4), 25, (0.32, 2.76)), ([9, 3, 3], 30, (0.1, 1 / 3))],
)
def test_clip_span(indices, fps, span):
    assert audio.clip_span(indices, fps) == pytest.approx(span)


def by_hand(samples, starts, bands, length):
    """Log-mel by the definitions: one window, one frequency, one triangle at a time."""
    hann = np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / 400) for n in range(400)])
    waves = np.exp(-2j * np.pi * np.outer(np.arange(length // 2 + 1), np.arange(400)) / length)
    step = (mel_of(7500) - mel_of(125)) / (bands + 1)
    weights = np.zeros((length // 2 + 1, bands))
    for k in range(1, length // 2 + 1):
        for band in range(bands):
            centre = mel_of(125) + (band + 1) * step
            weights[k, band] = max(0, 1 - abs(mel_of(k * 16000 / length) - centre) / step)
    spectra = [np.abs(waves @ (samples[start : start + 400].astype(np.float64) * hann)) for start in starts]
    return np.log(np.stack(spectra) @ weights + 0.01)


def mel_of(hertz):
    return 1127 * math.log(1 + hertz / 700)


def test_log_mel_by_definition():
    samples = np.random.default_rng(0).normal(0, 0.3, 1300).astype(np.float32)
    rows = audio.log_mel(samples)
    assert (rows.shape, rows.dtype) == ((6, 64), np.float32)
    np.testing.assert_allclose(rows, by_hand(samples, range(0, 960, 160), 64, 512), rtol=0, atol=1e-6)  # float32


def test_log_mel_beside_vggish():
    """Numbers of AudioSet's own mel_features.py (in torchvggish 0.2) for this chirp in noise; whole: 1.0e-5 apart."""
    n = np.arange(32000)
    samples = 0.3 * np.sin(2 * np.pi * (200 + n / 16) * n / 16000) + (n * 7919 % 1000 - 500) / 5000
    rows = audio.log_mel(samples.astype(np.float32))
    rows_bands = [(0, 0), (0, 63), (50, 20), (100, 40), (150, 7), (197, 32)]
    expected = [1.160024, -0.069685, -1.883745, -2.511228, -0.890475, -1.330865]
    assert [rows[at] for at in rows_bands] == pytest.approx(expected, abs=2e-5)  # the samples are rounded to float32
    assert rows.shape == (198, 64)
    assert rows.sum(dtype=np.float64) == pytest.approx(-6353.87126, abs=1e-3)  # 12,672 such roundings
    assert np.square(rows, dtype=np.float64).sum() == pytest.approx(33248.42083, abs=1e-2)


@pytest.mark.parametrize(
    ("samples", "rows", "examples"),
    [(0, 0, 0), (399, 0, 0), (400, 1, 0), (15599, 95, 0), (15600, 96, 1), (30959, 191, 1), (30960, 192, 2)],
)
def test_counts_of_frames_and_examples(samples, rows, examples):
    sound = np.random.default_rng(0).normal(0, 0.3, samples).astype(np.float32)
    assert audio.log_mel(sound).shape == (rows, 64)
    assert audio.windows(sound).shape == (examples, 96, 64)
    np.testing.assert_array_equal(audio.windows(sound).reshape(-1, 64), audio.log_mel(sound)[: examples * 96])


def test_spectrogram_of_exact_length_is_the_log_mel():
    sound = np.random.default_rng(0).normal(0, 0.3, 400 + 160 * 99).astype(np.float32)
    np.testing.assert_array_equal(audio.spectrogram(sound, 100, 64), audio.log_mel(sound))


@pytest.mark.parametrize(
    ("samples", "frames", "bands"), [(300, 4, 8), (10240, 128, 80), (16001, 20, 128), (32000, 1, 300)]
)
def test_spectrogram_has_its_size_and_every_band_sounds(samples, frames, bands):
    sound = np.random.default_rng(0).normal(0, 0.3, samples).astype(np.float32)
    rows = audio.spectrogram(sound, frames, bands)
    assert (rows.shape, rows.dtype) == ((frames, bands), np.float32)
    assert rows.min() > math.log(audio.OFFSET)


def test_spectrogram_by_definition():
    sound = np.random.default_rng(0).normal(0, 0.3, 1300).astype(np.float32)
    expected = by_hand(sound, range(0, 901, 150), 128, 1024)  # 512 points leave bands without a frequency
    np.testing.assert_allclose(audio.spectrogram(sound, 7, 128), expected, rtol=0, atol=1e-6)  # float32
    starts = np.round(np.linspace(0, 900, 6)).astype(int)
    means = np.log(np.exp(by_hand(sound, starts, 24, 512)).reshape(2, 3, 24).mean(1))
    np.testing.assert_allclose(audio.spectrogram(sound, 2, 24), means, rtol=0, atol=1e-6)  # float32


def test_a_short_noise_in_long_sound_is_heard():
    for at in range(0, 160000, 7919):
        sound = np.zeros(160000, np.float32)
        sound[at + 200 : at + 500] = np.random.default_rng(0).normal(0, 0.3, 300)
        rows = audio.spectrogram(sound[:160000], 16, 40).mean(1)
        assert rows.argmax() == pytest.approx((at + 350) / 10000 - 0.5, abs=0.6), at


def test_vggish_examples_are_centred_on_the_clip(tmp_path):
    path = make(tmp_path / "sound.mov", noise(16000), 16000)
    rows, present = audio.clip({"path": path, "fps": 25.0}, range(45, 55), kind="vggish", examples=2)  # 1.8 to 2.2 s
    expected = audio.windows(audio.read(path, 2 - 0.9675, 2 + 0.9675)[0])
    np.testing.assert_array_equal(rows, expected)
    assert (rows.shape, present) == ((2, 96, 64), 1)
