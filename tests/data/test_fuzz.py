"""Damaged, lying, endless and treacherous files: each is one sentence, soon, in little memory, from this file alone."""

import array
import ctypes
import io
import itertools
import os
import resource
import struct

import av
import fuzz_video
import numpy as np
import pytest

from vidjax.data import packets, video


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {name: fuzz_video.make(folder, name) for name in fuzz_video.FORMATS}


def test_damaged_videos(videos):
    """A few of the trials of tests/fuzz_video.py."""
    results = list(fuzz_video.run(fuzz_video.plan(220), videos, seed=1))
    assert len(results) == 220
    assert [result for result in results if result[1] not in fuzz_video.GOOD] == []
    assert {result[1] for result in results} == set(fuzz_video.GOOD)


def test_a_file_whose_times_hide_every_picture_is_refused(videos, monkeypatch):
    """The keyframe is outside the edit list, and all others come before it (found by the fuzzer: mp4/bit_flips)."""
    times = [array.array("q", [9, 1, 2]) for _ in range(4)]
    hidden = packets.order(packets.Packets(*times, bytearray([packets.KEY | packets.HIDDEN, 0, 0])))
    assert hidden.count == 0
    monkeypatch.setattr(packets, "order", lambda found: hidden)
    with pytest.raises(video.VideoError, match="there is no frame that can be decoded"):
        video.probe(videos["mp4"])


def misbehave(data, rng, path):
    if len(data) < 8:
        raise KeyError("lost")
    if len(data) < 16:
        return "whole" if b"1" * (70 << 20) else ""
    return os.abort()


def test_the_fuzzer_sees_what_goes_wrong(monkeypatch):
    monkeypatch.setattr(fuzz_video, "GROWTH", 50)
    videos = {"raises": b"1" * 7, "grows": b"2" * 15, "crashes": b"3" * 99}
    trials = [(name, "bit_flips", 0) for name in videos]
    outcomes = [result[1] for result in fuzz_video.run(trials, videos, attempt=misbehave)]
    assert outcomes[0] == "ESCAPED: KeyError: 'lost'"
    assert outcomes[1].startswith("GREW by 7")
    assert outcomes[2] == "CRASH: exit code -6"


def test_mutations_change_the_file_and_repeat(videos):
    for name in fuzz_video.FORMATS:
        for mutation in fuzz_video.MUTATIONS:
            changed = [fuzz_video.mutate(videos, name, mutation, number, 5)[0] for number in (3, 3, 4)]
            assert changed[0] == changed[1], (name, mutation)
            assert any(data != videos[name] for data in changed), (name, mutation)


def watch(folder):
    """A queue of the files in a folder that are opened from now on (Linux's inotify)."""
    libc = ctypes.CDLL(None, use_errno=True)
    queue = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(queue, os.fsencode(folder), 0x20) >= 0  # IN_OPEN
    return queue


def opened(queue):
    """The names of the files opened since the last look."""
    try:
        events, names = os.read(queue, 1 << 16), set()
    except BlockingIOError:
        return set()
    while events:
        size = struct.unpack_from("I", events, 12)[0]
        names.add(events[16 : 16 + size].rstrip(b"\0").decode())
        events = events[16 + size :]
    return names


def outside_media(data, target):
    """MP4s whose data reference (a URL; a Macintosh alias) says that the pictures are in the file `target`."""
    box = struct.pack(">I4sI", 12, b"url ", 1)  # flag 1: in the same file
    target += b"\0" * (len(target) % 2)
    alias = bytes(130) + struct.pack(">HH", 1, 1) + bytes(16)  # levels up from here and down to the target
    alias += struct.pack(">HH", 2, len(target)) + target + struct.pack(">hh", -1, 0)
    for kind, content in ((b"url ", target + b"\0"), (b"alis", alias)):
        entry = struct.pack(">I4sI", 12 + len(content), kind, 0) + content
        grown, changed = len(entry) - len(box), bytearray(data.replace(box, entry))
        for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
            at = changed.index(name) - 4
            changed[at : at + 4] = struct.pack(">I", struct.unpack_from(">I", changed, at)[0] + grown)
        yield bytes(changed)


def lists(folder):
    """Playlists and session descriptions that name the file `secret.mp4` of a folder."""
    secret, uri = str(folder / "secret.mp4"), (folder / "secret.mp4").as_uri()
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{}\n#EXT-X-ENDLIST\n"
    texts = [hls.format(name) for name in (secret, uri, "secret.mp4", f"concat:{secret}", f"subfile,,:{secret}")]
    texts += [f"ffconcat version 1.0\nfile '{name}'\n" for name in ("secret.mp4", uri)]
    texts += [
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
        f"<Representation id='0'><BaseURL>{uri}</BaseURL></Representation></AdaptationSet></Period></MPD>",
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=control:{uri}\n",
        f"<asx><entry><ref href='{uri}'/></entry></asx>",
        f"[playlist]\nFile1={uri}\n",
        uri,
    ]
    return [text.encode() for text in texts]


def reads(file):
    """Whether a file can be read."""
    try:
        return len(video.read(file, [0])) == 1
    except video.VideoError:
        return False


def test_no_file_makes_the_reader_open_another(videos, tmp_path, monkeypatch):
    """What lists files is refused; with a reference to other media the pictures in this file count, if any."""
    (tmp_path / "secret.mp4").write_bytes(videos["mp4"])
    queue, secret = watch(tmp_path), os.fsencode(tmp_path / "secret.mp4")
    references = [data for name in (b"secret.mp4", secret) for data in outside_media(videos["mp4"], name)]
    for name in ("clip.mp4", "clip.m3u8", "clip.ffconcat", "clip.mpd", "clip.sdp", "clip.mov"):
        path = tmp_path / name
        for i, content in enumerate(lists(tmp_path) + references):
            path.write_bytes(content)
            opened(queue)
            assert reads(str(path)) == reads(content)
            assert i >= len(lists(tmp_path)) or not reads(content), content
            assert opened(queue) == {name}, content
    monkeypatch.setattr(video, "OPTIONS", video.OPTIONS | {"enable_drefs": "1", "use_absolute_path": "1"})
    path.write_bytes(references[3])
    opened(queue)
    assert reads(str(path))
    assert opened(queue) == {path.name, "secret.mp4"}  # so the references are ones that FFmpeg understands


def test_names_are_names_of_files(videos, tmp_path):
    (tmp_path / "0.jpg").write_bytes(b"\xff\xd8")
    (tmp_path / "secret.mp4").write_bytes(videos["mp4"])
    secret = tmp_path / "secret.mp4"
    names = [str(tmp_path / "%d.jpg"), str(tmp_path / "*.jpg"), f"concat:{secret}|{secret}", secret.as_uri()]
    for name in [*names, f"subfile,,start,0,end,0,,:{secret}", "pipe:0", "testsrc"]:
        with pytest.raises(video.VideoError, match="No such file"):
            video.read(name, [0])


def ue(number):
    """An H.264 exp-Golomb code (9.1) as text of bits."""
    return f"{number + 1:b}".zfill(2 * (number + 1).bit_length() - 1)


def claim(data, width, height):
    """A raw H.264 stream whose sequence parameter set claims another size (7.3.2.1.1)."""
    begin = data.index(b"\0\0\0\1\x67") + 5
    end = data.index(b"\0\0\0\1", begin)
    bits = "".join(f"{byte:08b}" for byte in data[begin:end].replace(b"\0\0\3", b"\0\0"))
    old = ue(fuzz_video.WIDTH // 16 - 1) + ue(fuzz_video.HEIGHT // 16 - 1)
    assert bits.count(old) == 1
    bits = bits.replace(old, ue(width // 16 - 1) + ue(height // 16 - 1)).rstrip("0")
    bits += "0" * (-len(bits) % 8)
    content = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    for byte in range(4):
        content = content.replace(bytes([0, 0, byte]), bytes([0, 0, 3, byte]))
    return data[:begin] + content + data[end:]


def raw(folder, size=(fuzz_video.WIDTH, fuzz_video.HEIGHT), count=12):
    """A raw H.264 stream of grey pictures 10, 20, 30 ..."""
    path = folder / "raw.h264"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "6", "bf": "2", "x264-params": "annexb=1"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(count):
            grey = np.full((size[1], size[0], 3), 10 * i + 10, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


def test_absurd_sizes_in_the_bitstream_are_refused_unallocated(tmp_path):
    data = raw(tmp_path)
    assert video.probe(claim(data, 320, 256))["width"] == 320
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for width, height in ((30000, 30000), (16384, 16384), (8192, 8192)):
        with pytest.raises(video.VideoError, match="bytes: "):
            video.probe(claim(data, width, height))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024


def test_size_that_changes_within_a_file(tmp_path):
    """Two streams one after the other: all pictures get the size of the first."""
    both = raw(tmp_path) + raw(tmp_path, (200, 160))
    frames = video.read(both, range(24))
    assert frames.shape == (24, fuzz_video.HEIGHT, fuzz_video.WIDTH, 3)
    expected = np.tile(np.arange(12) * 10 + 10, 2)
    np.testing.assert_allclose(frames.mean((1, 2, 3)), expected, atol=3)  # coded at the default quality


def test_time_limit(videos, tmp_path, monkeypatch):
    """Each look at the clock finds a second gone: demuxing and decoding stop at the limit, and name the file."""
    path = tmp_path / "endless.mp4"
    path.write_bytes(videos["mp4"])
    with monkeypatch.context() as patch:
        patch.setattr(video.time, "thread_time", itertools.count().__next__)
        message = rf"{path}: reading takes longer than the limit of 20 s"
        with pytest.raises(video.VideoError, match=message):
            video.probe(str(path), time_limit=20)
        video.probe(str(path), time_limit=60)  # the scan is kept: from here on decoding alone
        with pytest.raises(video.VideoError, match=message):
            video.read(str(path), [0, 35], time_limit=18)
        assert len(video.read(str(path), [0, 35], time_limit=50)) == 2
        with pytest.raises(video.VideoError, match="limit of 11 s"):
            video.read(videos["avi"], [39])


def test_packets_without_end_cost_little(monkeypatch):
    """100,000 packets: about 33 bytes each while they are counted."""
    source = io.BytesIO()
    with av.open(source, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame(32, 32, "yuvj420p")))
        container.mux(stream.encode(None))
    data = source.getvalue()
    at = data.index(b"movi") + 4
    chunk = data[at : at + 8 + struct.unpack_from("<I", data, at + 4)[0]]
    body = b"movi" + chunk + b"\0" * (len(chunk) % 2) + struct.pack("<4sIH", b"00dc", 2, 0xD8FF) * 99_999
    data = data[: at - 8] + struct.pack("<I", len(body)) + body
    assert video.probe(data)["num_frames"] == 100_000
    with pytest.raises(video.VideoError, match="limit of 0.05 s"):
        video.probe(data, time_limit=0.05)
    with pytest.raises(video.VideoError, match="frame 99999 of 100000 cannot be decoded"):
        video.read(data, [99_999])
