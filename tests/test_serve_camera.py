"""A camera's frames over the WebSocket: labels with latency by the stream's code, sentences for what is no camera."""

import os
import threading
import time

import cv2
import numpy as np
import pytest
import served
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from vidjax.serve import camera

CAMERA = "ws://127.0.0.1:8000/api/camera"


@pytest.fixture(scope="module")
def predictor():
    return served.predictor()


def jpeg(shade, height=30, width=40):
    """A JPEG picture of one grey, which every decoder gives alike."""
    return cv2.imencode(".jpg", np.full((height, width, 3), shade, np.uint8))[1].tobytes()


@pytest.fixture
def client(predictor, tmp_path):
    """A client, and after it no thread that follows a camera."""
    made, device = served.built(predictor, tmp_path)
    yield TestClient(made, served.URL)
    for _ in range(500):
        if not device.threads and device.cameras == 0:
            break
        time.sleep(0.01)
    assert (device.threads, device.cameras) == (set(), 0)


def followed(socket, pictures, enough):
    """The answers to pictures, sent 50 ms apart until `enough` answers are there."""
    ready, found, stop = socket.receive_json(), [], threading.Event()

    def send():
        for picture in pictures:
            if stop.wait(0.05):
                return
            socket.send_bytes(picture)

    thread = threading.Thread(target=send)
    thread.start()
    while len(found) < enough:
        found.append(socket.receive_json())
    stop.set()
    thread.join()
    return ready, found


def test_labels_come_with_their_latency(predictor, client):
    with client.websocket_connect(f"{CAMERA}?top=2") as socket:
        ready, found = followed(socket, [jpeg(90)] * 200, 4)
    assert ready == {"state": "ready", "fps": 25.0, "side": camera.SIDE, "classes": served.NAMES}
    grey = {key: np.full_like(x[None], 90) for key, x in predictor.blank().items()}
    expected = np.asarray(predictor.batch([grey]))[0]
    for one in found:
        assert [row["label"] for row in one["top"]] == [served.NAMES[i] for i in np.argsort(-expected)[:2]]
        # 1e-5: another program computes a window of a stream
        assert one["top"][0]["score"] == pytest.approx(float(expected.max()), abs=1e-5)
        assert one["latency"] > 0
    times, frames = [one["time"] for one in found], [one["frame"] for one in found]
    assert times == sorted(times)
    assert frames == sorted(set(frames))
    assert frames[0] >= 7  # a window is eight frames


def test_a_window_is_of_the_newest_frames(predictor, client):
    """After a change of the picture the scores become those of the new one alone."""
    with client.websocket_connect(CAMERA) as socket:
        _, found = followed(socket, [jpeg(30)] * 9 + [jpeg(220)] * 200, 10)
    bright = {key: np.full_like(x[None], 220) for key, x in predictor.blank().items()}
    expected = np.asarray(predictor.batch([bright]))[0]
    assert found[-1]["top"][0]["score"] == pytest.approx(float(expected.max()), abs=1e-5)  # another program


def ended(client, *messages):
    """What a server says to messages before it closes: (sentence, close code)."""
    with client.websocket_connect(CAMERA) as socket:
        assert socket.receive_json()["state"] == "ready"
        for message in messages:
            socket.send_bytes(message) if isinstance(message, bytes) else socket.send_text(message)
        said = socket.receive_json()["error"]
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    return said, closed.value.code


def test_what_is_no_frame_is_a_sentence(client, monkeypatch):
    assert ended(client, "a text") == ("A frame is a binary message, a JPEG picture.", 1008)
    monkeypatch.setattr("vidjax.data.live.DAMAGED", 0)
    said, code = ended(client, b"no picture")
    assert said.startswith("camera: no picture can be decoded (")
    assert code == 1008


def test_a_picture_that_is_too_large_is_not_decoded(client, monkeypatch):
    monkeypatch.setattr("vidjax.data.live.DAMAGED", 0)
    monkeypatch.setitem(camera.video.LIMIT, "max_pixels", "1199")
    assert ended(client, jpeg(9))[0].startswith("camera: no picture can be decoded (")


def test_a_camera_without_frames_is_given_up(client, monkeypatch):
    monkeypatch.setattr(camera, "PATIENCE", 0.05)
    assert ended(client) == ("No frame came for 0.05 s.", 1008)


def test_there_are_only_so_many_cameras(predictor, tmp_path):
    client = TestClient(served.built(predictor, tmp_path, cameras=1)[0], served.URL)
    with client.websocket_connect(CAMERA) as first:
        assert first.receive_json()["state"] == "ready"
        with client.websocket_connect(CAMERA) as second:
            assert second.receive_json() == {"error": "There are 1 cameras already; try again when one has ended."}
            with pytest.raises(WebSocketDisconnect) as closed:
                second.receive_json()
            assert closed.value.code == camera.LATE
    assert os.listdir(tmp_path) == []


def test_old_frames_give_way_to_new_ones():
    box = camera.Mailbox(2)
    for i in range(5):
        box.put(i)
    taken = iter(box)
    assert [next(taken), next(taken), box.dropped] == [3, 4, 3]
    box.end()
    assert list(box) == []
