"""Who may use a server: no page of another site, by no other name; and what browsers are told of ours."""

import json

import numpy as np
import pytest
import served
from starlette.testclient import TestClient, WebSocketDenialResponse

from vidjax import main, serve
from vidjax.serve import guard

CAMERA = "ws://127.0.0.1:8000/api/camera"
LOCAL = guard.names("127.0.0.1")
NAME, SITE = "This server is not called by that name", "Pages of other sites may not use this server."


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return TestClient(served.built(served.predictor(), tmp_path_factory.mktemp("uploads"))[0], served.URL)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:9000", "localhost:8000"])
def test_a_server_is_called_by_the_names_of_this_machine(host):
    assert guard.refusal({"host": host}, LOCAL, False) == ""
    assert guard.refusal({"host": host, "origin": f"http://{host.lower()}"}, LOCAL, False) == ""


STRANGE = ("evil.com", "evil.com:8000", "localhost.evil.com", "127.0.0.1.evil.com", "192.168.0.2", "", "[", "a:b")


@pytest.mark.parametrize("host", [*STRANGE, "localhost@evil.com", "localhost, evil.com"])
def test_other_names_are_refused(host):
    """As those that another site has pointed to this machine."""
    assert NAME in guard.refusal({"host": host}, LOCAL, False)
    assert NAME in guard.refusal({"host": host, "origin": f"http://{host}"}, LOCAL, False)


def test_a_server_for_others_is_called_by_numbers_and_given_names():
    known = guard.names("0.0.0.0", ["Videos.example.org"])
    for host in ("192.168.0.2:8000", "[fe80::1]:8000", "videos.example.org", "localhost:8000"):
        assert guard.refusal({"host": host}, known, True) == ""
    for host in ("evil.com", "example.org", "1.2.3.4.evil.com"):
        assert NAME in guard.refusal({"host": host}, known, True)


@pytest.mark.parametrize("origin", ["http://evil.com", "http://localhost:8001", "null", "http://localhost", "file://"])
def test_pages_of_other_sites_are_refused(origin):
    assert guard.refusal({"host": "localhost:8000", "origin": origin}, LOCAL, False) == SITE


def test_what_browsers_say_of_where_a_request_comes_from_is_heeded():
    asked = lambda **head: guard.refusal(  # noqa: E731
        {"host": "localhost:8000"} | {f"sec-fetch-{key}": value for key, value in head.items()}, LOCAL, False
    )
    assert asked(site="same-origin", mode="cors") == asked(site="none") == ""
    assert asked(site="cross-site", mode="navigate", dest="document") == ""  # somebody follows a link
    assert asked(site="cross-site", mode="navigate", dest="iframe") == SITE
    assert asked(site="cross-site", mode="no-cors", dest="image") == asked(site="same-site", mode="cors") == SITE


def test_refusals_are_answered_with_403(client):
    for head, sentence in (({"host": "evil.com"}, NAME), ({"origin": "http://evil.com"}, SITE)):
        for answer in (
            client.get("/", headers=head),
            client.get("/api/model", headers=head),
            client.post("/api/predict", headers=head, content=b"0"),
        ):
            assert answer.status_code == 403
            assert sentence in answer.json()["error"]
            assert answer.headers["content-security-policy"] == guard.POLICY
        with pytest.raises(WebSocketDenialResponse), client.websocket_connect(CAMERA, headers=head):
            pass


def test_a_real_server_refuses_a_foreign_websocket(tmp_path):
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    made, _ = served.built(served.predictor(), tmp_path)
    with served.running(made) as url, pytest.raises(InvalidStatus) as refused:
        connect(f"{url.replace('http', 'ws')}/api/camera", origin="http://evil.com")
    assert refused.value.response.status_code == 403
    assert json.loads(refused.value.response.body) == {"error": SITE}


def test_every_answer_carries_what_browsers_should_know(client):
    for path in ("/", "/page.js", "/api", "/api/model", "/nothing", "/openapi.json"):
        head = client.get(path).headers
        for key, value in guard.HEADERS.items():
            assert head[key] == value, (path, key)
    for part in ("default-src 'none'", "frame-ancestors 'none'", "script-src 'self'"):
        assert part in guard.POLICY
    assert "unsafe" not in guard.POLICY


def test_mistakes_of_the_command_are_sentences(capsys, tmp_path, monkeypatch):
    def fails(*words):
        assert main.main(["serve", *words]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    run = f"--weights={served.tiny.save_untrained(tmp_path / 'run', served.NAMES)}"
    assert "give a run or weights" in fails()
    assert "give a run or weights" in fails(run, "my_video.mp4")
    assert "no checkpoint in" in fails(f"--weights={tmp_path}")
    np.savez(tmp_path / "theirs.npz", x=np.zeros(3))
    assert "theirs.npz fits no net that vidjax knows" in fails(f"--weights={tmp_path / 'theirs.npz'}")
    with serve.listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        line = fails(run, f"--port={port}")
    assert line.startswith(f"vidjax serve: cannot listen on 127.0.0.1, port {port} (Address already in use): give")
    assert "--host=no.such.name.invalid is no address of this machine" in fails(run, "--host=no.such.name.invalid")
    assert "port" in fails(run, "--port=70000")
    monkeypatch.setattr("vidjax.commands.sharing.WEB", ("fastapi", "no_such_module"))
    assert fails(run) == "vidjax serve: the page needs no-such-module: pip install 'vidjax[web]'."


def test_a_server_for_others_says_so_in_one_line(capsys):
    serve.tell("0.0.0.0", ("0.0.0.0", 8000), False)
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert "anyone who can reach this machine's port 8000 can use it" in line
    serve.tell("::1", ("::1", 80, 0, 0), True)
    said = capsys.readouterr()
    assert "http://[::1]:80/" in said.out
    assert said.err == ""
