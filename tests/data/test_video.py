"""Every picture carries its number, so the tests know which frame came out, not only that one did."""

import concurrent.futures
import contextlib
import fractions
import os
import resource
import struct

import av
import cv2
import numpy as np
import pytest

from vidjax.data import packets, video

WIDTH, HEIGHT, FRAMES = 96, 64, 60
SEQUENCES = {
    "b_frames.mp4": ("libx264", {"options": {"g": "24", "bf": "3"}}),
    "b_frames.avi": ("mpeg4", {"max_b_frames": 2, "gop_size": 15, "bit_rate": 2_000_000}),
    "one_keyframe.mp4": ("libx264", {"options": {"g": "1000", "bf": "0", "sc_threshold": "0"}}),
    "open_gop.mkv": ("libx264", {"options": {"x264-params": "open-gop=1:keyint=20:bframes=3:b-adapt=0:scenecut=0"}}),
    "open_gop.ts": ("libx264", {"options": {"x264-params": "open-gop=1:keyint=20:bframes=3:b-adapt=0:scenecut=0"}}),
    "program_stream.mpg": ("mpeg2video", {"max_b_frames": 2, "gop_size": 12}),
    "no_times.h264": ("libx264", {"options": {"g": "24", "bf": "3"}}),
    "frames.webm": ("libvpx", {"options": {"lag-in-frames": "16", "g": "30"}}),
}


def picture(number):
    """Eight squares, bright where the number's bit is set."""
    bits = np.array([number >> bit & 1 for bit in range(8)]).reshape(2, 4)
    grey = np.kron(np.where(bits, 230, 25), np.ones((HEIGHT // 2, WIDTH // 4)))
    return np.repeat(grey[..., None], 3, -1).astype(np.uint8)


def numbers(frames):
    """The numbers that pictures of any size carry: (T, H, W, 3) -> list of int."""
    small = np.stack([cv2.resize(frame, (4, 2), interpolation=cv2.INTER_AREA)[..., 1] > 128 for frame in frames])
    return [int(sum(1 << bit for bit in np.flatnonzero(bits))) for bits in small]


def encode(path, codec, times=None, options=(), **attributes):
    """A video of FRAMES numbered pictures; `times` are milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=dict(options))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        base = fractions.Fraction(1, 1000) if times else fractions.Fraction(1, 25)
        stream.codec_context.time_base = base
        for name, value in attributes.items():
            setattr(stream.codec_context, name, value)
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = times[number] if times else number, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remux(source, target, change, **options):
    """Copies a video's packets through `change(i, packet) -> packets to write`."""
    with av.open(str(source)) as reader, av.open(str(target), "w", options=options) as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        for i, packet in enumerate(packet for packet in reader.demux(stream) if packet.size):
            for changed in change(i, packet):
                changed.stream = copy
                writer.mux(changed)
    return target


def sequential(path):
    with av.open(str(path), **video.METADATA) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def forget_scans():
    video.SCANS.clear()
    video.HELD["bytes"] = 0


def scanned(path):
    with contextlib.ExitStack() as stack:
        return video._index(video._file(path, None), lambda: None, stack)[0]


def check_every_frame(path, expected):
    """Each frame alone, all at once, backwards with repeats, and spread: the pictures of sequential decoding."""
    truth = sequential(path)
    assert numbers(truth) == expected
    assert video.probe(path)["num_frames"] == len(expected)
    for i in range(len(expected)):
        np.testing.assert_array_equal(video.read(path, [i])[0], truth[i])
    everything = np.arange(len(expected))
    shuffled = np.random.default_rng(0).permutation(np.repeat(everything, 2))
    for indices in (everything, everything[::-1], shuffled, everything[3::7], everything[[-1, 0, -1]]):
        np.testing.assert_array_equal(video.read(path, indices), truth[indices])
        forget_scans()  # now the file that is open for the scan is read on
        np.testing.assert_array_equal(video.read(path, indices), truth[indices])


@pytest.mark.parametrize("name", SEQUENCES)
def test_every_frame_is_the_one_of_sequential_decoding(name, tmp_path):
    codec, options = SEQUENCES[name]
    path = encode(tmp_path / name, codec, **options)
    check_every_frame(path, list(range(FRAMES)))
    assert (len(scanned(path).starts) > 1) == (name not in ("one_keyframe.mp4", "no_times.h264"))


def test_every_frame_of_a_written_file(tmp_path):
    path = str(tmp_path / "clip.mp4")
    video.write(path, (picture(i) for i in range(FRAMES)), fps=30)
    check_every_frame(path, list(range(FRAMES)))
    with av.open(path) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert np.diff(np.append(np.flatnonzero(keys), FRAMES)).max() <= 12
    assert video.probe(path) == {"num_frames": 60, "fps": 30, "width": WIDTH, "height": HEIGHT, "duration": 2}


@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv"])
def test_every_frame_at_a_variable_rate(name, tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(5, 90, FRAMES)).tolist()
    path = encode(tmp_path / name, "libx264", times, {"g": "24", "bf": "3"})
    check_every_frame(path, list(range(FRAMES)))
    rate = (FRAMES - 1) / (times[-1] - times[0]) * 1000
    assert video.probe(path)["fps"] == pytest.approx(rate, rel=0.001)  # containers round times to a millisecond
    assert video.probe(path)["duration"] == pytest.approx(FRAMES / rate, rel=0.001)


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_every_frame_of_a_cut_in_an_open_group_of_pictures(suffix, tmp_path):
    whole = encode(tmp_path / f"whole.{suffix}", "libx264", **SEQUENCES["open_gop.ts"][1])
    path = remux(whole, tmp_path / f"cut.{suffix}", lambda i, packet: [packet] if i >= 13 else [])
    check_every_frame(path, list(range(20, FRAMES)))


def test_every_frame_inside_an_edit_list(tmp_path):
    def earlier(i, packet):
        packet.pts, packet.dts = packet.pts - 15 * 512, packet.dts - 15 * 512
        return [packet]

    whole = encode(tmp_path / "whole.mp4", "libx264", options={"g": "24", "bf": "3"})
    path = remux(whole, tmp_path / "edited.mp4", earlier, avoid_negative_ts="disabled", use_editlist="1")
    check_every_frame(path, list(range(15, FRAMES)))


@pytest.mark.parametrize("b_frames", [0, 2])
def test_every_frame_of_a_truncated_avi(b_frames, tmp_path):
    whole = encode(tmp_path / "whole.avi", "mpeg4", max_b_frames=b_frames, gop_size=15, bit_rate=2_000_000)
    path = tmp_path / "short.avi"
    with av.open(str(whole)) as container:
        ends = [packet.pos + packet.size // 2 for packet in container.demux(video=0) if packet.size]
    path.write_bytes(whole.read_bytes()[: ends[40]])
    count = video.probe(path)["num_frames"]
    assert 38 <= count <= 41  # the last packet is half there, and with B-frames stands before the one it follows
    truth = sequential(path)
    assert len(truth) == count
    assert numbers(truth[:38]) == list(range(38))
    for i in range(count):
        np.testing.assert_array_equal(video.read(path, [i])[0], truth[i])
    np.testing.assert_array_equal(video.read(path, range(count)[::-3]), truth[::-3])
    with pytest.raises(
        video.VideoError, match=rf"short.avi: frame {count} cannot be decoded, there are only {count} frames"
    ):
        video.read(path, [0, count])


def test_packets_of_dropped_frames_are_no_frames(tmp_path):
    """Pictures that are "not coded", as in UT-Interaction and HMDB51 files, follow frames 5 and 31."""

    def drop(i, packet):
        packet.pts = packet.dts = i + (i > 5) + (i > 31)
        if i not in (5, 31):
            return [packet]
        header = int.from_bytes(bytes(packet)[4:6], "big") & ~0x3F | 0x0F  # vop_coded = 0, then stuffing 01111
        skipped = av.Packet(b"\0\0\1\xb6" + header.to_bytes(2, "big"))
        skipped.pts = skipped.dts = packet.pts + 1
        skipped.time_base = packet.time_base
        return [packet, skipped]

    whole = encode(tmp_path / "whole.avi", "mpeg4", max_b_frames=0, gop_size=15, bit_rate=2_000_000)
    path = remux(whole, tmp_path / "dropped.avi", drop)
    with av.open(str(path)) as container:
        assert len([packet for packet in container.demux(video=0) if packet.size]) == FRAMES + 2
    check_every_frame(path, list(range(FRAMES)))


def test_hidden_vp8_references_are_no_frames():
    """Bit 4 of a VP8 frame's first byte is show_frame (RFC 6386, 9.1)."""
    coded = [av.Packet(bytes([first, 0, 0])) for first in (0x10, 0x11, 0x01, 0x31)]
    for time, packet in enumerate(coded):
        packet.pts = packet.dts = time
    assert packets.pictures(coded, "vp8").pts.tolist() == [0, 1, 3]
    assert packets.pictures(coded, "vp9").pts.tolist() == [0, 1, 2, 3]


def test_real_files(golden):
    """Sampled frames of real clips, alone and together, beside sequential decoding."""
    rng = np.random.default_rng(0)
    paths = sorted((golden / "video" / "clips").iterdir()) + sorted((golden / "video" / "awkward").iterdir())
    paths += (
        sorted((golden / "video" / "sound").glob("*.mp*")) + sorted((golden / "ut_interaction").glob("*/*_5.avi"))[::5]
    )
    paths = [path for path in paths if path.name != "corrupted.mp4" and not path.name.startswith("video_")]
    assert len(paths) >= 16
    for path in map(str, paths):
        truth, count = sequential(path), video.probe(path)["num_frames"]
        assert count == len(truth), path
        indices = np.append(rng.integers(count, size=6), count - 1)
        np.testing.assert_array_equal(video.read(path, indices), truth[indices], path)
        for i in indices[-2:]:
            np.testing.assert_array_equal(video.read(path, [i])[0], truth[i], path)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation(golden, degrees, tmp_path):
    """Beside OpenCV, which turns pictures upright too; and a turned picture of known numbers."""
    path = str(golden / "video" / "awkward" / f"video_{degrees}.mov")
    capture = cv2.VideoCapture(path)
    expected = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
    capture.release()
    frame = video.read(path, [0])[0]
    assert frame.shape == expected.shape == ((568, 320, 3) if degrees % 180 else (320, 568, 3))
    assert np.abs(frame.astype(int) - expected).mean() < 3  # OpenCV's matrix is BT.601, the file's BT.709
    assert (video.probe(path)["height"], video.probe(path)["width"]) == frame.shape[:2]
    assert video.read(path, [0], 80).shape == ((1, 142, 80, 3) if degrees % 180 else (1, 80, 142, 3))


def test_full_range_colours(golden):
    """The golden file is full range BT.709: compared with the standard's matrix on its planes."""
    path = str(golden / "video" / "awkward" / "bt709_full_range.mp4")
    with av.open(path) as container:
        frame = next(container.decode(video=0))
        y, u, v = (np.frombuffer(p, np.uint8).reshape(p.height, -1)[:, : p.width].astype(float) for p in frame.planes)
    u, v = (plane.repeat(2, 0).repeat(2, 1) - 128 for plane in (u, v))
    rgb = np.stack([y + 1.5748 * v, y - 0.1873 * u - 0.4681 * v, y + 1.8556 * u], -1).clip(0, 255)
    assert np.abs(video.read(path, [0])[0] - rgb).mean() < 1  # chroma is interpolated here, repeated there


MATRICES = {1: (0.2126, 0.0722), 5: (0.299, 0.114)}  # FFmpeg's number: shares of red and blue in BT.709 and BT.601


def planes(rgb, matrix, full):
    """RGB of one colour a block of 16 -> I420 planes, by the standards' formulas."""
    red, blue = MATRICES[matrix]
    r, g, b = np.moveaxis(rgb.astype(float), -1, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    chroma = [(b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)]
    y, chroma = (y, chroma) if full else (y * 219 / 255 + 16, [c * 224 / 255 for c in chroma])
    flat = np.concatenate([y.reshape(-1), *((c + 128)[::2, ::2].reshape(-1) for c in chroma)])
    return flat.round().clip(0, 255).astype(np.uint8).reshape(-1, rgb.shape[1])


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
def test_yuv_is_bt601_full_range_whatever_the_file_is(matrix, full, tmp_path):
    path, blocks = tmp_path / "colours.mkv", np.random.default_rng(0).integers(30, 226, (4, 6, 3))
    rgb = blocks.repeat(16, 0).repeat(16, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)  # lossless
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1
        frame = av.VideoFrame.from_ndarray(planes(rgb, matrix, full), format="yuv420p")
        frame.colorspace, frame.color_range = matrix, 2 if full else 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clip = video.read(path, [0], pixels="yuv420")
    assert clip.shape == (1, 96, 96)
    flat, expected = clip.reshape(-1).astype(int), planes(rgb, 5, True).reshape(-1)
    for begin, side in ((0, 16), (6144, 8), (6144 + 1536, 8)):  # the middles of blocks: chroma is interpolated between
        shape = (4, side, 6, side)
        a, b = (x[begin : begin + 24 * side**2].reshape(shape)[:, side // 4 : -side // 4] for x in (flat, expected))
        a, b = (x[..., side // 4 : -side // 4] for x in (a, b))
        assert np.abs(a - b).max() <= 3  # 8-bit planes on either side, RGB between where the matrix differs


def test_yuv_of_turned_and_odd_pictures(golden, tmp_path):
    """Planes of any size, position and direction: turned into RGB they show what `read` shows."""
    smooth = cv2.resize(np.random.default_rng(0).integers(80, 170, (5, 7, 3), np.uint8), (95, 63))
    video.write(tmp_path / "odd.mp4", [smooth] * 3)
    cases = [(str(golden / "video" / "awkward" / f"video_{degrees}.mov"), 0) for degrees in (0, 90, 180, 270)]
    cases += [(case[0], 80) for case in cases] + [(str(tmp_path / "odd.mp4"), 0), (str(tmp_path / "odd.mp4"), 33)]
    for path, short_side in cases:
        rgb, clip = video.read(path, [0, 1], short_side), video.read(path, [0, 1], short_side, "yuv420")
        even = [2 * round(side / 2) for side in rgb.shape[1:3]]
        assert clip.shape == (2, even[0] * 3 // 2, even[1])
        frame = av.VideoFrame.from_ndarray(clip[1], format="yuvj420p")
        shown = cv2.resize(frame.to_ndarray(format="rgb24"), rgb.shape[2:0:-1])
        assert np.abs(shown.astype(int) - rgb[1]).mean() < 3, path  # chroma is halved once more
    with pytest.raises(ValueError, match="pixels must be one of rgb, yuv420, not 'bgr'"):
        video.read(cases[0][0], [0], pixels="bgr")


def test_colours_survive_writing(tmp_path):
    colours = np.array(
        [(0, 0, 0), (255, 255, 255), (200, 40, 40), (40, 180, 60), (30, 60, 210), (128, 128, 128)], np.uint8
    )
    frames = np.broadcast_to(colours[:, None, None], (6, 32, 32, 3))
    video.write(tmp_path / "colours.mp4", frames, gop=1, crf=1)
    read = video.read(tmp_path / "colours.mp4", range(6))
    assert np.abs(read.astype(int) - frames).max() <= 3  # 8-bit limited-range YUV


@pytest.mark.parametrize(("short", "shape"), [(32, (32, 48)), (64, (64, 96)), (100, (100, 150)), (7, (7, 10))])
def test_short_side_is_exact(short, shape, tmp_path):
    video.write(tmp_path / "clip.mp4", [picture(i) for i in range(9)])
    frames = video.read(tmp_path / "clip.mp4", [8, 2], short)
    assert frames.shape == (2, *shape, 3)
    assert numbers(frames) == [8, 2]


@pytest.mark.parametrize(("height", "width", "count"), [(63, 95, 3), (2, 2, 3), (64, 96, 1), (1, 1, 2)])
def test_written_sizes_are_kept(height, width, count, tmp_path):
    path = tmp_path / "sizes of 100%d: ä é ñ 視.mp4"
    video.write(path, np.full((count, height, width, 3), 90, np.uint8))
    frames = video.read(str(path), [0] * 3)
    assert frames.shape == (3, height, width, 3)
    assert np.abs(frames.astype(int) - 90).max() < 4
    assert os.listdir(tmp_path) == [path.name]


def test_bytes_and_paths_read_alike(tmp_path):
    path = encode(tmp_path / "clip.avi", "mpeg4", max_b_frames=2, gop_size=15)
    content = path.read_bytes()
    assert video.probe(content) == video.probe(path)
    np.testing.assert_array_equal(video.read(content, [40, 7]), video.read(path, [40, 7]))
    odd = os.fsencode(tmp_path) + b"/latin\xe9.avi"
    os.rename(path, odd)
    assert numbers(video.read(os.fsdecode(odd), [40, 7])) == [40, 7]


def test_a_key_spares_the_scan_of_bytes(tmp_path, monkeypatch):
    content = encode(tmp_path / "clip.avi", "mpeg4", max_b_frames=2, gop_size=15).read_bytes()
    scans, scan = [], video._scan
    monkeypatch.setattr(video, "_scan", lambda file, *args: scans.append(file.key) or scan(file, *args))
    for key in (("shard", 7), ("shard", 7), None, None, ("shard", 8), ("shard", 7)):
        assert numbers(video.read(content, [40, 7], key=key)) == [40, 7]
    assert scans == [("shard", 7), None, None, ("shard", 8)]
    with pytest.raises(video.VideoError, match=r"^shard-3: frame 60 cannot be decoded, there are only 60 frames$"):
        video.read(content, [60], key="shard-3")


def test_scans_in_memory_are_bounded(tmp_path, monkeypatch):
    path = encode(tmp_path / "clip.mp4", "libx264", options={"g": "2"})
    index = scanned(path)
    monkeypatch.setattr(video, "CACHED", 10 * video._bytes(index))
    for number in range(40):
        video.probe(path.read_bytes(), key=("bounded", number))
        video.probe(path.read_bytes(), key=("bounded", 0))
    assert [key for key in video.SCANS if key[0] == "bounded"][-2:] == [("bounded", 39), ("bounded", 0)]
    assert len(video.SCANS) == 10
    assert video.HELD["bytes"] == sum(map(video._bytes, video.SCANS.values()))


def test_pictures_that_nothing_refers_to_are_skipped(tmp_path, monkeypatch):
    """The encoder's two B-pictures between references are decoded only where they are wanted."""
    options = {"g": "24", "bf": "2", "b-pyramid": "none", "x264-params": "b-adapt=0:scenecut=0"}
    path = encode(tmp_path / "clip.mp4", "libx264", options=options)
    spare = scanned(path).spare[:, 0]
    assert len(spare) > FRAMES / 2
    decoded, start = [], video._from

    def counted(*args):
        for frame in start(*args):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(video, "_from", counted)
    for wanted in ([20], [int(spare[9])], [0, int(spare[3]), 22]):
        decoded.clear()
        assert numbers(video.read(path, wanted)) == wanted
        assert len(decoded) == len(set(range(wanted[-1] + 1)) - (set(spare.tolist()) - set(wanted)))


def test_changed_file_is_read_anew(tmp_path):
    path = str(tmp_path / "clip.mp4")
    for count in (5, 9):
        video.write(path, [picture(i) for i in range(count)])
        assert video.probe(path)["num_frames"] == count


def bad_files(folder):
    """[(file, what the message says after its name)]."""
    good = encode(folder / "good.mp4", "libx264")
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile://{good}\n#EXT-X-ENDLIST\n"
    contents = {
        "empty.mp4": b"",
        "text.mp4": b"no video\n" * 200,
        "text.txt": b"no video\n" * 200,
        "truncated.mp4": good.read_bytes()[: good.stat().st_size // 2],
        "playlist.m3u8": playlist.encode(),
        "playlist.mp4": playlist.encode(),
        "list.ffconcat": b"ffconcat version 1.0\nfile good.mp4\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    cases = [(str(folder / name), "cannot be read as video") for name in contents]
    cases += [(content, "cannot be read as video") for content in contents.values()]
    return [
        *cases,
        (str(folder / "sound.mp4"), "there is no video stream"),
        (str(folder), "not a file"),
        (str(folder / "missing.mp4"), "No such file"),
        (f"concat:{good}|{good}", "No such file"),
        ("http://127.0.0.1:9/clip.mp4", "No such file"),
        ("/dev/zero", "not a file"),
        ("nul\0.mp4", "null"),
        ("", "No such file"),
    ]


def test_bad_files_are_one_sentence_that_names_the_file(tmp_path):
    for file, problem in bad_files(tmp_path):
        name = file if isinstance(file, str) else f"video of {len(file)} bytes"
        for call in (video.probe, lambda file: video.read(file, [0])):
            with pytest.raises(video.VideoError) as caught:
                call(file)
            assert str(caught.value).startswith(f"{name}: "), file
            assert problem in str(caught.value), file
            assert "\n" not in str(caught.value), file


def test_damaged_file_reads_up_to_the_damage(golden):
    path = str(golden / "video" / "awkward" / "corrupted.mp4")
    assert video.read(path, [0, 20], 36).shape == (2, 36, 64, 3)
    with pytest.raises(video.VideoError, match=r"corrupted\.mp4: frame 40 of 50 cannot be decoded \(.+\)$"):
        video.read(path, [0, 40])


@pytest.mark.parametrize("side", [8200, 65500])
def test_absurd_sizes_are_refused_unallocated(side, tmp_path):
    path = tmp_path / "huge.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(1), format="rgb24")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    assert video.probe(data)["num_frames"] == 1
    frame, header = data.index(b"\xff\xc0\x00\x11") + 5, data.index(b"strf") + 12
    data = data[:frame] + struct.pack(">HH", side, side) + data[frame + 4 :]
    data = data[:header] + struct.pack("<ii", side, side) + data[header + 8 :]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(video.VideoError):
        video.probe(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    small = encode(tmp_path / "small.mp4", "libx264")
    with pytest.raises(video.VideoError, match=r"small.mp4: pictures of 30000x20000 pixels are refused"):
        video.read(small, [0], 20000)


@pytest.mark.parametrize("indices", [[], [-1], [3, -2]])
def test_impossible_indices(indices, tmp_path):
    with pytest.raises(ValueError, match="frame numbers >= 0"):
        video.read(encode(tmp_path / "clip.mp4", "libx264"), indices)


def test_failed_write_leaves_nothing(tmp_path):
    def frames():
        yield picture(0)
        raise KeyError("source")

    with pytest.raises(KeyError, match="source"):
        video.write(tmp_path / "clip.mp4", frames())
    with pytest.raises(ValueError, match="at least one frame"):
        video.write(tmp_path / "clip.mp4", [])
    assert os.listdir(tmp_path) == []


def test_threads_share_a_file(tmp_path):
    path = encode(tmp_path / "clip.avi", "mpeg4", max_b_frames=2, gop_size=15)
    jobs = np.random.default_rng(0).integers(FRAMES, size=(40, 5))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda indices: numbers(video.read(path, indices)), jobs)
    assert list(results) == jobs.tolist()


def test_memory_and_descriptors_stay_flat(tmp_path):
    path = encode(tmp_path / "clip.mp4", "libx264", options={"g": "12", "bf": "2"})
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(path.read_bytes()[:-900])
    source = path.read_bytes()

    def reads(count):
        for i in range(count):
            video.read(path, [i % FRAMES, 30, 59], 128)
            video.read(source, [i % FRAMES])
            with pytest.raises(video.VideoError):
                video.read(str(broken), [0])
        return memory(), len(os.listdir("/proc/self/fd"))

    before, descriptors = reads(60)
    after, descriptors_after = reads(200)
    assert descriptors_after == descriptors
    assert after - before < 4 << 20


def memory():
    """Resident bytes of this process."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
