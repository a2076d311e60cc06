"""`vidjax serve` as a process: it says where it is, answers, and Ctrl-C ends it with code 0 and nothing left behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import served
import tiny


@pytest.fixture
def process(tmp_path):
    """(a running `vidjax serve`, its port, the folder of its temporary files)."""
    run = tiny.save_untrained(tmp_path / "run", served.NAMES)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    words = ["serve", f"--weights={run}", "--port=0", "--max_upload=1"]
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import vidjax.main as m; m.run()"
    )
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(tiny.ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program, *words], env=environment, **pipes) as started:
        line = started.stdout.readline()
        found = re.fullmatch(r"serving  http://127\.0\.0\.1:(\d+)/  \(API: .*; Ctrl-C ends it\)\n", line)
        assert found, line + started.stderr.read()
        try:
            yield started, int(found[1]), temporary
        finally:
            started.kill()


def test_ctrl_c_ends_it_cleanly_in_the_middle_of_an_upload(process, tmp_path):
    started, port, temporary = process
    url = f"http://127.0.0.1:{port}/api/predict?name=clip.mp4&top=1"
    content = served.clip(tmp_path).read_bytes()
    with urllib.request.urlopen(urllib.request.Request(url, content)) as answer:
        assert json.load(answer)["path"] == "clip.mp4"
    with pytest.raises(urllib.error.HTTPError) as refused:  # told although the client sends more than is read
        urllib.request.urlopen(urllib.request.Request(url, bytes(3 << 20)))
    assert refused.value.code == 413
    assert json.load(refused.value)["error"] == "The video is larger than the limit of 1 MB."
    assert len(list(temporary.glob("vidjax-serve-*"))) == 1
    assert (next(temporary.glob("vidjax-serve-*")).stat().st_mode & 0o777) == 0o700
    with socket.create_connection(("127.0.0.1", port)) as upload:
        upload.sendall(b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n" + content[:99])
        while not list(temporary.glob("vidjax-serve-*/*/video")):
            time.sleep(0.01)
        started.send_signal(signal.SIGINT)
        assert started.wait(30) == 0
        with upload.makefile("rb") as answer:
            assert b'{"error": "The server was ended."}' in answer.read()
    assert started.stderr.read() == ""
    assert os.listdir(temporary) == []
