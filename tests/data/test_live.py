"""Frames as they come: the pictures that `video.read` gives, when they are due, and why a source ends."""

import functools
import http.server
import io
import itertools
import re
import threading
import time
import types

import av
import cv2
import numpy as np
import pytest

from vidjax.data import jpeg, live, video

FRAMES, HEIGHT, WIDTH = 12, 36, 48


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A file of moving noise, 25 frames a second."""
    path, rng = tmp_path_factory.mktemp("clip") / "noise.mp4", np.random.RandomState(0)
    big = np.kron(rng.rand(9, 12, 3), np.ones((4, 4, 1)))
    video.write(path, np.stack([(255 * np.roll(big, 3 * t, 1)).astype(np.uint8) for t in range(FRAMES)]), bframes=2)
    return str(path)


def stdin(monkeypatch, content):
    monkeypatch.setattr(live.sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))


def encoded(pictures, quality=95):
    """JPEG pictures, one behind the other."""
    return [cv2.imencode(".jpg", x[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes() for x in pictures]


@pytest.mark.parametrize("pixels", ["rgb", "yuv420"])
@pytest.mark.parametrize("short_side", [0, 24])
def test_a_file_gives_what_reading_it_gives(clip, short_side, pixels):
    found = list(live.frames(clip, pace=False))
    expected = video.read(clip, np.arange(FRAMES), short_side, pixels)
    np.testing.assert_array_equal([live.picture(one.picture, short_side, pixels) for one in found], expected)
    assert [one.number for one in found] == [*range(FRAMES)]
    np.testing.assert_allclose([one.time for one in found], np.arange(FRAMES) / 25, atol=1e-6)
    assert {one.piece for one in found} == {0}


@pytest.mark.parametrize("turns", [0, 90, 180, 270])
def test_phones_pictures_are_upright(golden, turns):
    path = str(golden / "video" / "awkward" / f"video_{turns}.mov")
    first = next(live.frames(path, pace=False))
    np.testing.assert_array_equal(live.picture(first.picture, 60), video.read(path, [0], 60)[0])


def test_a_file_comes_at_its_own_pace(clip):
    began, waits = time.monotonic(), []
    stop = types.SimpleNamespace(is_set=lambda: False, wait=waits.append)
    found = list(live.frames(clip, stop=stop))
    assert (len(found), len(waits)) == (FRAMES, FRAMES)
    lead = np.array(waits) + (time.monotonic() - began)  # as nothing was waited for, each is due from the first on
    due = np.arange(FRAMES) / 25
    assert (np.array(waits) <= due + 1e-6).all()
    assert (lead >= due - 1e-3).all()  # how long the reading took is not waited for again


def test_a_stop_ends_a_file(clip):
    stop, found = threading.Event(), []
    for one in live.frames(clip, pace=False, stop=stop):
        found.append(one.number)
        if one.number == 3:
            stop.set()
    assert found == [0, 1, 2, 3]


def test_raw_frames_are_those_sent(clip, monkeypatch):
    pictures = video.read(clip, np.arange(FRAMES))
    stdin(monkeypatch, pictures.tobytes())
    found = list(live.frames("-", raw=f"{WIDTH}x{HEIGHT}@12.5"))
    np.testing.assert_array_equal([live.picture(one.picture) for one in found], pictures)
    np.testing.assert_allclose([one.time for one in found], np.arange(FRAMES) / 12.5)


def test_raw_frames_that_end_in_the_middle_are_told(clip, monkeypatch):
    stdin(monkeypatch, video.read(clip, [0, 1]).tobytes()[:-5])
    with pytest.raises(video.VideoError, match="standard input: its frame 1 has 5179 bytes where 48x36@25 needs 5184"):
        list(live.frames("-", raw="48x36@25"))


@pytest.mark.parametrize("raw", ["48x36", "0x36@25", "48x36@0", "48*36@25", "99999x99999@25"])
def test_wrong_raw_is_one_sentence(raw, monkeypatch):
    stdin(monkeypatch, b"")
    with pytest.raises(video.VideoError, match="raw frames"):
        list(live.frames("-", raw=raw))


def test_raw_is_of_the_standard_input(clip):
    with pytest.raises(video.VideoError, match="raw frames come on the standard input; give - in its place"):
        next(live.frames(clip, raw="48x36@25"))


def test_jpeg_pictures_are_those_sent(clip, monkeypatch):
    pictures = video.read(clip, np.arange(FRAMES))
    stdin(monkeypatch, b"--boundary\r\n\r\n".join(encoded(pictures)))
    found = list(live.frames("-", pace=False))
    np.testing.assert_allclose([one.time for one in found], np.arange(FRAMES) / live.FPS)
    far = np.abs(np.stack([live.picture(one.picture) for one in found]).astype(int) - pictures).mean()
    assert far < 12  # JPEG's loss, chroma halved; the next frame is 60 away
    assert np.abs(np.diff(pictures.astype(int), axis=0)).mean() > 40


def test_damaged_pictures_are_left_out(clip, monkeypatch):
    content = encoded(video.read(clip, np.arange(FRAMES)))
    content[4] = content[4][:300]  # the next one begins in the middle of it
    content[7] = b"\xff\xd8\xff\xd9"  # nothing in it
    stdin(monkeypatch, b"".join(content))
    assert len(list(live.frames("-", pace=False))) == FRAMES - 2


def test_what_is_no_picture_is_told(monkeypatch):
    stdin(monkeypatch, b"hello" * 1000)
    with pytest.raises(video.VideoError, match="standard input: it holds no JPEG picture; give --raw=WIDTHxHEIGHT@FPS"):
        list(live.frames("-"))


class Pieces:
    """A file that is read in pieces of drawn length."""

    def __init__(self, content, seed):
        self.content, self.rng = content, np.random.default_rng(seed)

    def read1(self, size):
        length = int(self.rng.integers(1, 400))
        piece, self.content = self.content[:length], self.content[length:]
        return piece


def test_pictures_are_split_wherever_pieces_end():
    rng = np.random.RandomState(0)
    pictures = encoded(rng.randint(0, 256, (6, 20, 24, 3), np.uint8))
    thumbnail = b"\xff\xe1" + (len(pictures[0]) + 2).to_bytes(2, "big") + pictures[0]
    pictures[2] = pictures[2][:2] + thumbnail + pictures[2][2:]  # a picture in a segment of a picture
    _, progressive = cv2.imencode(".jpg", rng.randint(0, 256, (40, 40, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    pictures.append(progressive.tobytes())
    _, restarts = cv2.imencode(".jpg", rng.randint(0, 256, (40, 40, 3), np.uint8), [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])
    pictures.append(restarts.tobytes())
    between = [bytes(rng.randint(0, 255, n % 5 * 7, np.uint8)) for n in range(len(pictures))]
    content = b"".join(itertools.chain(*zip(between, pictures, strict=True)))
    for seed in range(100):
        assert list(jpeg.split(Pieces(content, seed))) == pictures
    assert list(jpeg.split(Pieces(content[:-1], 0))) == pictures[:-1]


class Server(http.server.BaseHTTPRequestHandler):
    """JPEG pictures in parts, or a file's bytes; what it sends is an attribute."""

    def do_GET(self):  # noqa: N802
        self.send_response(200)
        kind, content = type(self).content
        self.send_header("Content-Type", kind)
        if kind == "video/mp4":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """(what to set `content` on, URL) of a server of this machine."""
    handler = type("Handler", (Server,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=functools.partial(serving.serve_forever, 0.01))
        thread.start()
        yield handler, f"http://127.0.0.1:{serving.server_port}/stream"
        serving.shutdown()
        thread.join()


def parts(pictures):
    """What a camera sends: the parts of multipart/x-mixed-replace."""
    head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    return b"".join(head % len(x) + x + b"\r\n" for x in pictures)


def test_a_file_behind_a_url_ends_as_a_file(clip, server):
    with open(clip, "rb") as file:
        server[0].content = "video/mp4", file.read()
    found = list(live.frames(server[1], pace=False))
    expected = video.read(clip, np.arange(FRAMES))
    np.testing.assert_array_equal([live.picture(one.picture) for one in found], expected)


def test_a_live_url_that_breaks_off_is_opened_again(clip, server, monkeypatch):
    monkeypatch.setattr(live, "PAUSES", (0.01, 0.02))
    server[0].content = "multipart/x-mixed-replace; boundary=frame", parts(encoded(video.read(clip, np.arange(6))))
    told, found = [], []
    stop = threading.Event()
    for one in live.frames(server[1], stop=stop, tell=told.append):
        found.append(one)
        if one.piece == 2:
            stop.set()
    assert [one.number for one in found] == [*range(6), *range(6), 0]
    assert [one.piece for one in found] == [0] * 6 + [1] * 6 + [2]
    times = [one.time for one in found]
    assert times == sorted(times)
    assert len(told) == 2
    for sentence in told:  # FFmpeg calls the end of such a stream an error or not, as the last packet comes
        assert re.fullmatch(rf"{server[1]}: the stream broke off \(.+\); it is opened again in 0.01 s", sentence)


def test_a_url_that_stays_away_is_one_sentence(clip, server, monkeypatch):
    monkeypatch.setattr(live, "PAUSES", (0.01, 0.02))
    server[0].content = "multipart/x-mixed-replace; boundary=frame", parts(encoded(video.read(clip, np.arange(6))))
    told = []
    found = live.frames(server[1], tell=told.append)
    assert [next(found).number for _ in range(6)] == [*range(6)]
    server[0].content = "text/plain", b"no more"
    with pytest.raises(video.VideoError, match="/stream: cannot be read as video"):
        list(found)
    assert len(told) == 2


def test_a_url_that_never_was_is_not_tried_again(server):
    server[0].content = "text/plain", b"nothing"
    told = []
    with pytest.raises(video.VideoError, match="/stream: cannot be read as video"):
        list(live.frames(server[1], tell=told.append))
    assert told == []


def test_a_url_that_falls_silent_is_given_up(clip, server, monkeypatch):
    monkeypatch.setattr(live, "PATIENCE", (5.0, 0.3))
    monkeypatch.setattr(live, "PAUSES", ())
    quiet, answer = threading.Event(), server[0].do_GET
    server[0].do_GET = lambda self: (answer(self), quiet.wait(30))
    server[0].content = "multipart/x-mixed-replace; boundary=frame", parts(encoded(video.read(clip, np.arange(6))))
    try:
        with pytest.raises(video.VideoError, match=r"/stream: the stream broke off \(nothing came for 0.3 s\)"):
            list(live.frames(server[1]))
    finally:
        quiet.set()


class Capture:
    """A camera of three pictures."""

    def __init__(self, number):
        self.left = 3 * (number == 7)

    def isOpened(self):  # noqa: N802
        return self.left > 0

    def read(self):
        self.left -= 1
        return self.left >= 0, np.full((4, 6, 3), [10, 20, 30], np.uint8)

    def release(self):
        self.left = None


def test_a_camera(monkeypatch):
    monkeypatch.setattr(live.cv2, "VideoCapture", Capture)
    found = live.frames("7")
    frames = [next(found) for _ in range(3)]
    np.testing.assert_array_equal(live.picture(frames[0].picture)[0, 0], [30, 20, 10])
    assert frames[0].time == 0
    assert frames[2].time == frames[2].arrived - frames[0].arrived
    with pytest.raises(video.VideoError, match="camera 7: no picture comes any more"):
        next(found)
    with pytest.raises(video.VideoError, match="camera 1: cannot be opened"):
        next(live.frames("1"))


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "text.mp4").write_text("text")
    for path in (tmp_path / "text.mp4", tmp_path / "missing.mp4"):
        with pytest.raises(video.VideoError, match=f"{path}: cannot be read as video"):
            list(live.frames(str(path)))


def test_times_that_do_not_ascend_are_replaced():
    given = [(2.0, 0, "a"), (None, 0, "b"), (2.1, 0, "c"), (1.0, 0, "d"), (3.0, 0, "e")]
    found = [round(seconds, 6) for seconds, _, _ in live._by_own_time(given, 20)]
    assert found == [0, 0.05, 0.1, 0.15, 1.0]


def test_a_live_source_may_not_drift_from_our_clock():
    given = [(50.0, 7.0, "a"), (50.04, 7.5, "b"), (None, 8.0, "c"), (60.0, 8.5, "d"), (51.2, 9.0, "e"), (52, 9.1, "f")]
    found = [round(seconds, 6) for seconds, _, _ in live._by_arrival(given)]
    assert found == [0, 0.04, 1.0, 1.5, 1.5, 2.0]


def test_which_sources_a_stride_counts():
    assert [live.counted(x) for x in ("a/b.mp4", "0", "-", "rtsp://host/a.mp4")] == [True, False, False, False]


def test_frames_are_ours_to_keep(clip):
    """A picture stays what it is while others are decoded."""
    found = list(live.frames(clip, pace=False))
    assert all(isinstance(one.picture, av.VideoFrame) for one in found)
    np.testing.assert_array_equal(live.picture(found[0].picture), video.read(clip, [0])[0])
