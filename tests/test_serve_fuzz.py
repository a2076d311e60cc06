"""Requests made up from the OpenAPI description: every answer is one that it promises, where it fails a sentence."""

import os

import hypothesis
import pytest
import schemathesis
import served
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks
from starlette.testclient import TestClient

from vidjax import serve
from vidjax.serve import app

LEFT_OUT = [checks.positive_data_acceptance]  # bytes that are made up are no video: refused with 422
POSTS, WITH_WORDS = ("/api/predict", "/api/explain"), ("/api/predict", "/api/explain", "/api/progress")
PATHS = (*WITH_WORDS, "/api/model", "/api/health")
KNOWN = served.guard.names("127.0.0.1", ["testserver"])
EXAMPLES = int(os.environ.get("VIDJAX_FUZZ", 8))  # more by hand


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(ASGI application, a video's bytes) of a server whose uploads are all deleted in the end."""
    folder = tmp_path_factory.mktemp("uploads")
    content = served.clip(tmp_path_factory.mktemp("clips"), count=9).read_bytes()
    yield app.build(served.predictor(), serve.Limits(), str(folder), KNOWN)[0], content
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def described(made):
    return schemathesis.openapi.from_asgi("/openapi.json", made[0])


def tried(described, path, mode, check, most=EXAMPLES):
    """Calls check(case) with cases of a path's operation that are valid, or are not, as `mode` says."""
    (operation,) = described[path].values()
    how = {
        "derandomize": True,
        "deadline": None,
        "database": None,
        "suppress_health_check": list(hypothesis.HealthCheck),
    }
    hypothesis.given(operation.as_strategy(generation_mode=mode))(
        hypothesis.settings(max_examples=most, phases=[hypothesis.Phase.generate], **how)(check)
    )()


def told(case, answer):
    """An answer conforms to the description and gives nothing of the server away."""
    case.validate_response(answer, excluded_checks=LEFT_OUT)
    if "json" in str(answer.headers.get("content-type")):
        assert "Traceback" not in answer.text
        assert "uploads" not in answer.text


def test_the_description_has_these_operations(described):
    assert sorted(described) == sorted(PATHS)


@pytest.mark.parametrize(
    ("path", "mode"),
    [(path, GenerationMode.POSITIVE) for path in PATHS] + [(path, GenerationMode.NEGATIVE) for path in WITH_WORDS],
)
def test_every_answer_is_one_that_is_described(described, path, mode):
    seen = []

    def check(case):
        answer = case.call()
        seen.append(answer.status_code)
        told(case, answer)

    tried(described, path, mode, check)
    assert seen


@pytest.mark.parametrize("path", POSTS)
def test_every_answer_to_a_real_video_is_one_that_is_described(described, made, path):
    client, seen = TestClient(made[0], served.URL), []

    def check(case):
        query = {key: value for key, value in (case.query or {}).items() if value is not None}
        answer = client.post(path, params=query, files={"video": ("clip.mp4", made[1])})
        seen.append(answer.status_code)
        told(case, answer)

    tried(described, path, GenerationMode.POSITIVE, check)
    assert 200 in seen
