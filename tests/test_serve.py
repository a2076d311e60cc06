"""The HTTP API of `vidjax serve`: the same JSON as `vidjax predict`, and every refusal a sentence."""

import asyncio
import io
import json
import os
import threading
import time

import cv2
import numpy as np
import pytest
import served
import tiny
from starlette.testclient import TestClient

from vidjax import main
from vidjax.data import video
from vidjax.explain import command
from vidjax.serve import app, uploads


@pytest.fixture(scope="module")
def predictor():
    return served.predictor()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return served.clip(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def folder(tmp_path):
    """Where uploads lie; nothing is left there."""
    place = tmp_path / "uploads"
    place.mkdir()
    yield place
    assert os.listdir(place) == []


@pytest.fixture
def client(predictor, folder):
    return TestClient(served.built(predictor, folder)[0], served.URL)


def refused(answer, status, sentence):
    """An answer is {error: one sentence} that has a part in it."""
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    said = answer.json()["error"]
    assert sentence in said
    assert "\n" not in said
    assert said.endswith(".")
    assert "Traceback" not in said
    assert "uploads" not in said  # the folder


def test_the_json_is_that_of_predict(predictor, folder, clip, tmp_path, monkeypatch):
    run = tiny.save_untrained(tmp_path / "run", served.NAMES)
    monkeypatch.chdir(clip.parent)
    words = ["--top=2", "--stride=6f", "--threshold=0.2", f"--json={tmp_path}/labels.jsonl"]
    assert main.main(["predict", "clip.mp4", f"--weights={run}", *words]) == 0
    expected = (tmp_path / "labels.jsonl").read_text()
    assert len(json.loads(expected)["windows"]) == 4
    predictor.sizes.clear()  # as in a new process: how many windows are computed at once is part of the last digit
    client = TestClient(served.built(predictor, folder)[0], served.URL)
    asked = {"top": 2, "stride": "6f", "threshold": 0.2}
    form = client.post("/api/predict", params=asked, files={"video": ("clip.mp4", clip.read_bytes())})
    assert form.text == expected
    assert form.headers["content-type"] == "application/json"
    body = client.post("/api/predict", params=asked | {"name": "clip.mp4"}, content=clip.read_bytes())
    assert body.text == expected


def test_a_file_is_called_as_the_client_calls_it(client, clip):
    for name in ("../../etc/passwd", "<script>.mp4", "größe\n.mp4", "x" * 300):
        found = client.post("/api/predict", params={"name": name}, content=clip.read_bytes()).json()["path"]
        assert found == name[: uploads.LONGEST]
    sent = client.post("/api/predict", files={"video": ("../a b.mp4", clip.read_bytes())})
    assert sent.json()["path"] == "../a b.mp4"
    assert client.post("/api/predict", content=clip.read_bytes()).json()["path"] == "video"


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("predict?top=0", "top: Input should be greater than or equal to 1."),
        ("predict?top=many", "top: Input should be a valid integer"),
        ("predict?stride=fast", "stride: String should match"),
        ("predict?stride=0s", "stride is a time such as 0.5s or a number of frames such as 8f, not '0s'."),
        ("predict?threshold=1.5", "threshold: Input should be less than or equal to 1."),
        ("predict?window=8f", "windows are as long as these: leave window out."),
        ("explain?class=fly", "the net has no class 'fly'; it has rise, fall, turn"),
        ("explain?window=3", "my.mp4 has windows 0 to 2, not 3."),
        ("explain?method=magic", "method: Input should be 'gradcam', "),
        ("explain?method=rollout", "rollout needs attention of all tokens with all in each layer; this net's is none"),
        ("explain?format=gif", "format: Input should be 'png', 'mp4', 'npz' or 'sheet'."),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(client, clip, query, sentence):
    refused(client.post(f"/api/{query}", files={"video": ("my.mp4", clip.read_bytes())}), 422, sentence)


def test_what_is_no_video_is_a_sentence(client, clip):
    content = clip.read_bytes()
    send = lambda **how: client.post("/api/predict", **how)  # noqa: E731
    refused(send(files={"video": ("notes.txt", b"no video")}), 422, "notes.txt: cannot be read as video")
    refused(send(files={"video": ("half.mp4", content[:2000])}), 422, "half.mp4: ")
    refused(send(content=b"\0" * 5000), 422, "video: cannot be read as video")
    refused(send(), 422, "The request has no video in its body: send a video file.")
    refused(send(files={"video": ("a.mp4", b"")}), 422, "The form has no file `video`, or it is empty")
    refused(send(files={"movie": ("a.mp4", content)}), 422, "The form has no file `video`")
    refused(send(data={"video": "clip.mp4"}, files={"other": b""}), 422, "The form has no file `video`")
    head = {"content-type": "multipart/form-data; boundary=x"}
    refused(send(content=b"--y\r\n", headers=head), 400, "The form in the request is damaged")
    refused(send(content=content, headers={"content-type": "multipart/form-data"}), 400, "damaged")
    answer = client.post("/api/explain", files={"video": ("notes.txt", b"no video")})
    refused(answer, 422, "notes.txt: cannot be read as video")


def test_uploads_end_at_the_limit(predictor, folder, clip):
    client = TestClient(served.built(predictor, folder, megabytes=0.01)[0], served.URL)
    assert clip.stat().st_size > 5_000
    sentence = "The video is larger than the limit of 0.01 MB."
    content = b"\0" * 200_000
    refused(client.post("/api/predict", content=content), 413, sentence)
    refused(client.post("/api/predict", files={"video": content}), 413, sentence)
    seen = []

    def pieces():  # without a Content-Length
        for _ in range(50):
            seen.append(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))
            yield b"\0" * 4_000

    answer = client.post("/api/predict", content=pieces())
    refused(answer, 413, sentence)
    assert "content-length" not in answer.request.headers
    assert max(seen) <= 0.01 * uploads.MB
    whole = b"".join([b"\0" * 100] * 50 + [b"\0" * 100_000])
    refused(client.post("/api/predict", files={"video": whole}), 413, sentence)


def test_long_videos_and_large_pictures_are_refused(predictor, folder, clip):
    for limits, sentence in (
        ({"frames": 23}, "a.mp4: 24 frames are refused, the limit is 23."),
        ({"pixels": 1199}, "a.mp4: pictures of 40x30 pixels are refused, the limit is 1199 pixels."),
    ):
        client = TestClient(served.built(predictor, folder, **limits)[0], served.URL)
        refused(client.post("/api/predict", files={"video": ("a.mp4", clip.read_bytes())}), 422, sentence)
    client = TestClient(served.built(predictor, folder, frames=24, pixels=1200)[0], served.URL)
    assert client.post("/api/predict", content=clip.read_bytes()).status_code == 200


def asked(made, receive, path="/api/predict", headers=()):
    """(status, headers, object) that an ASGI application answers a POST whose body comes from receive()."""
    head = [(b"host", b"localhost"), *((key.encode(), value.encode()) for key, value in headers)]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": head, "extensions": {}}
    said = []

    async def send(message):
        said.append(message)

    async def whole():
        await made(scope | {"http_version": "1.1", "scheme": "http", "root_path": ""}, receive, send)
        body = b"".join(message.get("body", b"") for message in said)
        return said[0]["status"], dict(said[0]["headers"]), json.loads(body)

    return whole()


def body(content, then=None):
    """A receive() of a whole body, after which nothing comes, or `then`."""
    messages = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive():
        if messages:
            return messages.pop()
        await (then.wait() if then else asyncio.sleep(60))
        return {"type": "http.disconnect"}

    return receive


def test_a_slow_upload_is_given_up(predictor, folder, monkeypatch):
    monkeypatch.setattr(uploads, "SENT_ON", 0.05)
    made, device = served.built(predictor, folder, seconds=0.1)
    first = [{"type": "http.request", "body": b"\0" * 100, "more_body": True}]

    async def slow():
        if not first:
            await asyncio.sleep(60)
        return first.pop()

    status, _, said = asyncio.run(asked(made, slow))
    assert (status, said) == (408, {"error": "The upload took longer than 0.1 s."})
    assert device.taken == 0


def test_a_client_that_goes_takes_its_upload_along(predictor, folder):
    made, device = served.built(predictor, folder)
    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"\0" * 100, "more_body": True}]

    async def receive():
        return messages.pop()

    status, _, said = asyncio.run(asked(made, receive))
    assert (status, said["error"]) == (499, "The upload broke off.")
    assert device.taken == 0


@pytest.fixture
def endless(predictor, monkeypatch):
    """A predictor whose work does not end; an event says when it has been ended after all."""
    began, ended = threading.Event(), threading.Event()

    def many(paths, **how):
        began.set()
        try:
            while True:
                time.sleep(0.005)
        finally:
            ended.set()
        yield

    monkeypatch.setattr(predictor, "many", many, raising=False)
    return began, ended


def test_computing_that_takes_too_long_is_stopped(predictor, folder, clip, endless):
    made, device = served.built(predictor, folder, seconds=0.3)

    async def both():
        told = await asked(made, body(clip.read_bytes()))
        await asyncio.to_thread(endless[1].wait, 20)
        while device.threads:
            await asyncio.sleep(0.01)
        return told, device.line.locked()

    (status, _, said), held = asyncio.run(both())
    assert (status, said) == (504, {"error": "Computing took longer than 0.3 s and was stopped."})
    assert endless[1].is_set()
    assert not held


def test_computing_ends_when_the_client_goes(predictor, folder, clip, endless):
    made, _ = served.built(predictor, folder)

    async def both():
        gone = asyncio.Event()
        told = asyncio.ensure_future(asked(made, body(clip.read_bytes(), gone)))
        await asyncio.to_thread(endless[0].wait, 20)
        gone.set()
        return await told, await asyncio.to_thread(endless[1].wait, 20)

    (status, _, _), ended = asyncio.run(both())
    assert status == 499
    assert ended


def test_a_full_line_says_when_to_come_again(predictor, folder, clip, endless):
    made, device = served.built(predictor, folder, places=1)

    async def both():
        gone = asyncio.Event()
        first = asyncio.ensure_future(asked(made, body(clip.read_bytes(), gone)))
        await asyncio.to_thread(endless[0].wait, 20)
        second = await asked(made, body(clip.read_bytes()))
        gone.set()
        await first
        return second

    status, head, said = asyncio.run(both())
    assert status == 503
    assert int(head[b"retry-after"]) > 0
    assert said == {"error": "The line is full; try again in a moment."}
    assert device.taken == 0


def test_one_computation_at_a_time_and_its_progress(predictor, folder, clip, monkeypatch):
    made, _ = served.built(predictor, folder)
    running, most, own = [], [], type(predictor).many

    def many(paths, **how):
        running.append(paths)
        most.append(len(running))
        time.sleep(0.05)
        found = list(own(predictor, paths, **how))
        running.pop()
        return iter(found)

    monkeypatch.setattr(predictor, "many", many, raising=False)

    async def several():
        each = [body(clip.read_bytes() + bytes(i)) for i in range(3)]  # other bytes, or the scores would be known
        return await asyncio.gather(*(asked(made, one) for one in each))

    assert [status for status, _, _ in asyncio.run(several())] == [200] * 3
    assert most == [1, 1, 1]


def test_progress_is_told_by_the_clients_word(predictor, folder, clip, monkeypatch):
    client, seen, own = TestClient(served.built(predictor, folder)[0], served.URL), [], type(predictor).many

    def many(paths, progress, **how):
        def tell(*counts):
            progress(*counts)
            seen.append(client.get("/api/progress?job=mine-1").json())

        return own(predictor, paths, progress=tell, **how)

    monkeypatch.setattr(predictor, "many", many, raising=False)
    assert client.post("/api/predict?job=mine-1", content=clip.read_bytes()).status_code == 200
    assert seen == [{"state": "computing", "done": i, "of": 3} for i in (1, 2, 3)]
    assert client.get("/api/progress?job=mine-1").json() == {"state": "unknown", "done": 0, "of": 0}
    refused(client.get("/api/progress?job=a/b"), 422, "job: ")


def test_what_nobody_foresaw_is_told_in_the_terminal_alone(predictor, folder, clip, monkeypatch, capsys):
    def many(paths, **how):
        raise TypeError(f"secret {paths}")

    monkeypatch.setattr(predictor, "many", many, raising=False)
    client = TestClient(served.built(predictor, folder)[0], served.URL, raise_server_exceptions=False)
    answer = client.post("/api/predict", content=clip.read_bytes())
    refused(answer, 500, "The server failed at this; its terminal says how.")
    assert "secret" not in answer.text
    assert "TypeError: secret" in capsys.readouterr().err


def test_an_explanation_is_that_of_the_explainer(predictor, client, clip):
    expected = command.Explainer(predictor, "gradient")(str(clip), "fall", 1)
    ask = lambda form, **more: client.post(  # noqa: E731
        "/api/explain",
        params={"class": "fall", "method": "gradient", "window": 1, "format": form} | more,
        files={"video": ("clip.mp4", clip.read_bytes())},
    )
    arrays = np.load(io.BytesIO(ask("npz").content))
    np.testing.assert_array_equal(arrays["map"], expected["map"])
    np.testing.assert_array_equal(arrays["clip"], expected["clip"])
    answer = ask("sheet")
    facts = json.loads(answer.headers["x-explained"])
    assert facts["box"] == [0.2, 0.1, 0.6, 0.8]  # 24 x 24 in the middle of 40 x 30
    assert [facts[key] for key in ("label", "window", "start", "end", "frames")] == ["fall", 1, 0.8, 1.6, 8]
    sheet = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED).reshape(8, 24, 24, 4)
    np.testing.assert_array_equal(sheet[..., 3], np.round(255 * np.abs(expected["map"])))
    assert ((sheet[..., 2] > sheet[..., 0]) == (expected["map"] > 0)).all()  # red where it spoke for the class
    picture = cv2.imdecode(np.frombuffer(ask("png").content, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] == 8 * 240 + 7 * 4
    movie = ask("mp4")
    assert movie.headers["content-type"] == "video/mp4"
    assert video.probe(movie.content)["num_frames"] == 8
    best = client.post("/api/explain?method=gradient", content=clip.read_bytes())
    best = json.loads(best.headers["x-explained"])
    scores = predictor(clip)["scores"]
    assert best["window"] == scores.max(1).argmax()
    assert best["label"] == served.NAMES[scores.max(0).argmax()]


def test_an_explanation_does_not_score_a_known_video_again(predictor, folder, clip, monkeypatch):
    client, count, own = TestClient(served.built(predictor, folder)[0], served.URL), [], type(predictor).many
    monkeypatch.setattr(
        predictor, "many", lambda paths, **how: count.append(paths) or own(predictor, paths, **how), raising=False
    )
    client.post("/api/predict", content=clip.read_bytes())
    for form in ("png", "sheet"):
        assert client.post(f"/api/explain?format={form}&method=gradient", content=clip.read_bytes()).status_code == 200
    assert len(count) == 1
    client.post("/api/explain?method=gradient&stride=3f", content=clip.read_bytes())
    assert len(count) == 2


def test_a_net_of_whole_videos_has_windows_of_any_length(folder, clip):
    found = served.predictor(data__clip__sampler="segments")
    client = TestClient(served.built(found, folder)[0], served.URL)
    assert client.get("/api/model").json()["windows"]
    assert len(client.post("/api/predict", content=clip.read_bytes()).json()["windows"]) == 1
    cut = client.post("/api/predict?window=8f", content=clip.read_bytes()).json()["windows"]
    assert [one["frames"] for one in cut] == [[0, 8], [8, 16], [16, 24]]
    asked = "/api/explain?length=8f&window=2&method=gradient&format=sheet"
    facts = json.loads(client.post(asked, content=clip.read_bytes()).headers["x-explained"])
    assert [facts["start"], facts["end"]] == [1.6, 2.4]


def test_the_part_that_the_net_sees_lies_in_the_middle_of_any_picture(predictor, folder):
    owner = app.answers.Answers(predictor, app.answers.Limits())
    assert owner.box(24, 24) == [0, 0, 1, 1]
    assert owner.box(48, 96) == [0.25, 0.375, 0.5, 0.25]
    assert owner.box(12, 48) == [0, 0.375, 1, 0.25]  # enlarged


def test_the_facts_are_those_of_the_net(client):
    facts = client.get("/api/model").json()
    assert facts["classes"] == served.NAMES
    assert facts["clip"] == {"sampler": "random_clip", "size": 8, "stride": 1}
    assert facts["limits"]["megabytes"] == 200
    assert facts["windows"] is False
    assert "gradcam" in facts["methods"]
    assert client.get("/api/health").json() == {"status": "ok", "requests": 0, "cameras": 0}


def test_the_api_is_described_and_told_on_a_page(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert sorted(paths) == ["/api/explain", "/api/health", "/api/model", "/api/predict", "/api/progress"]
    told = client.get("/api").text
    assert all(path in told for path in [*paths, "/api/camera"])
    assert "<script" not in told
    assert client.get("/?content=other&kind=text/plain").content == client.get("/").content
    for path in ("/docs", "/redoc", "/nothing", "/../pyproject.toml", "/page/index.html"):
        assert client.get(path).status_code == 404
    refused(client.get("/api/predict"), 405, "Method Not Allowed")
