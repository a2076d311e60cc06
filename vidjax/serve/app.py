"""The web application: the page, and the HTTP API that the page uses too, with its OpenAPI description."""

import asyncio
import contextlib
import json
import pathlib
import re
import traceback
import typing

import fastapi
import jinja2
import markupsafe
from fastapi import Query
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

import vidjax
from vidjax import explain
from vidjax.predict import windows
from vidjax.serve import answers, camera, guard, shapes, uploads, work
from vidjax.serve.refusals import GONE, Refusal

ROOM = pathlib.Path(__file__).parent
PAGE = {  # what the page is made of; no other file can be asked for
    "/": (ROOM / "page" / "index.html", "text/html"),
    "/look.css": (ROOM.parent / "report" / "style.css", "text/css"),
    **{f"/{name}.css": (ROOM / "page" / f"{name}.css", "text/css") for name in ("page", "labels")},
    **{
        f"/{name}.js": (ROOM / "page" / f"{name}.js", "text/javascript")
        for name in ("page", "asking", "timeline", "labels", "why", "camera")
    },
}
TIME = r"^(\d{1,9}(\.\d{1,9})?\s?[sf])?$"
JOB = "^[A-Za-z0-9-]{0,64}$"
Top = typing.Annotated[int, Query(ge=1, le=1000, description="classes of the video and of each window")]
Stride = typing.Annotated[
    str, Query(pattern=TIME, description="from one window's beginning to the next: 0.5s or 8f (frames)")
]
Length = typing.Annotated[
    str, Query(pattern=TIME, description="a window's length, for nets that see frames of whole videos: 2s or 50f")
]
Threshold = typing.Annotated[float, Query(ge=0, le=1, description="the share that a class needs for a segment")]
Name = typing.Annotated[str, Query(max_length=1000, description="what the file is called, where a form does not say")]
Job = typing.Annotated[str, Query(pattern=JOB, description="a word of your own, to ask for its progress by")]
Class = typing.Annotated[str, Query(alias="class", max_length=1000, description="a class's name; default: the best")]
Method = typing.Annotated[typing.Literal[*explain.METHODS], Query(description="see /api/model")]
Number = typing.Annotated[
    int | None, Query(ge=0, le=10**9, description="its number; default: where the class scores highest")
]
FORMS = "; ".join(f"{form}: {what}" for form, (_, what) in answers.FORMATS.items())
Form = typing.Annotated[typing.Literal[*answers.FORMATS], Query(alias="format", description=FORMS)]
BODY = {
    "requestBody": {
        "required": True,
        "description": "A video file, as the file `video` of a form or as the whole body, of any other content type.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"video": {"type": "string", "format": "binary"}},
                    "required": ["video"],
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
TOLD = {
    400: "The request is damaged.",
    403: "It comes from another site's page, or calls the server by a name that is not its own.",
    408: "The upload takes too long.",
    413: "The video is larger than the limit.",
    422: "The file cannot be read as video, or is longer or larger than the limits, or a value cannot be meant.",
    503: "All places in the line are taken; Retry-After says when to try again.",
    504: "Computing takes too long; it was stopped.",
}
LABELS = {200: {"model": shapes.Labels, "description": "The labels."}}
EXPLANATION = {
    200: {
        "description": "The explanation.",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind, _ in answers.FORMATS.values()},
        "headers": {"X-Explained": {"schema": {"type": "string"}, "description": f"JSON: {answers.FACTS}"}},
    }
}
FAILURES = {status: {"model": shapes.Failure, "description": text} for status, text in TOLD.items()}


def build(predictor, limits, folder, known=guard.names("127.0.0.1"), anywhere=False):  # noqa: B008, a constant
    """(the ASGI application, its `work.Device`); uploads lie in `folder`, `known` and `anywhere` as for `guard`."""
    app = fastapi.FastAPI(
        title="vidjax serve",
        version=vidjax.__version__,
        description="Labels over time for videos, and what in them counted. Errors are {error: one sentence}.",
        docs_url=None,
        redoc_url=None,
    )
    device, owner, jobs = work.Device(limits.places), answers.Answers(predictor, limits), {}
    tell_failures(app)
    add_page(app)
    add_facts(app, owner, device, jobs)
    answered = answering(owner, device, folder, jobs)
    add_predict(app, owner, answered)
    add_explain(app, owner, answered)
    camera.add(app, predictor, device, limits)
    return guard.guarded(uploads.heard_out(app), known, anywhere), device


def add_page(app):
    """The page's files, and a page that tells the API."""
    for path, (file, kind) in PAGE.items():
        app.add_api_route(path, sent(file.read_bytes(), kind), include_in_schema=False)

    @app.get("/api", include_in_schema=False)
    async def told():
        source = (ROOM / "page" / "api.html").read_text(encoding="utf-8")
        template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
        return HTMLResponse(template.render(api=app.openapi(), camera=camera.__doc__, coded=coded))


def sent(content, kind):
    """An endpoint that always answers with the same."""

    async def endpoint():
        return Response(content, media_type=kind)

    return endpoint


def coded(text):
    """A text whose `words` are code, as HTML."""
    return markupsafe.Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(markupsafe.escape(text))))


def add_facts(app, owner, device, jobs):
    """What is there, and how it goes."""
    refused = {403: FAILURES[403]}

    @app.get(
        "/api/model",
        response_model=shapes.Model,
        response_description="The net.",
        responses=refused,
        summary="The net, and what may be asked",
    )
    async def model():
        return owner.facts()

    @app.get(
        "/api/health",
        response_model=shapes.Health,
        response_description="It is there.",
        responses=refused,
        summary="Whether the server is there",
    )
    async def health():
        return {"status": "ok", "requests": device.taken, "cameras": device.cameras}

    @app.get(
        "/api/progress",
        response_model=shapes.Progress,
        response_description="How far it is.",
        responses=refused | {422: {"model": shapes.Failure, "description": "The word is none."}},
        summary="How far a request is",
    )
    async def progress(
        job: typing.Annotated[
            str, Query(pattern=JOB, min_length=1, description="the word that the request was given as `job`")
        ],
    ):
        return jobs.get(job, {"state": "unknown", "done": 0, "of": 0})


def answering(owner, device, folder, jobs):
    """A function that gives what compute(upload, progress) makes of a request's video, in its turn."""
    limits = owner.limits

    async def answered(request, name, job, compute):
        state = {"state": "uploading", "done": 0, "of": 0}

        def computed(upload):
            state["state"] = "computing"
            return compute(upload, lambda done, known: state.update(done=done, of=known))

        with device.place(), noted(jobs, job, state):
            async with uploads.received(request, folder, limits.megabytes, limits.seconds, name) as upload:
                state["state"] = "waiting"
                return await unless_gone(request, device.run(lambda: computed(upload), limits.seconds))

    return answered


def add_predict(app, owner, answered):
    """Labels of a video."""

    @app.post("/api/predict", responses=FAILURES | LABELS, openapi_extra=BODY)
    async def predict(
        request: fastapi.Request,
        top: Top = 5,
        stride: Stride = "",
        window: Length = "",
        threshold: Threshold = 0.3,
        name: Name = "",
        job: Job = "",
    ):
        """Labels of a video, of its windows of time and of segments: the object that `vidjax predict --json` writes."""
        asked = checked(answers.Asked(top, stride, window, threshold))
        text = await answered(request, name, job, lambda upload, tell: owner.labels(upload, asked, tell))
        return Response(text, media_type="application/json")


def add_explain(app, owner, answered):
    """What counted in a video."""

    @app.post("/api/explain", responses=FAILURES | EXPLANATION, openapi_extra=BODY, response_class=Response)
    async def why(
        request: fastapi.Request,
        label: Class = "",
        method: Method = "gradcam",
        window: Number = None,
        form: Form = "png",
        stride: Stride = "",
        length: Length = "",
        name: Name = "",
        job: Job = "",
    ):
        """What in a window of a video counted for a class, as `vidjax explain` draws it; red for it, blue against."""
        asked = checked(answers.Asked(stride=stride, window=length))

        def compute(upload, tell):
            return owner.explained(upload, asked, method, label, window, form, tell)

        content, facts = await answered(request, name, job, compute)
        head = {"X-Explained": json.dumps(facts)}
        if form == "npz":
            head["Content-Disposition"] = 'attachment; filename="explained.npz"'
        return Response(content, media_type=answers.FORMATS[form][0], headers=head)


def checked(asked):
    """The same; Refusal for times that cannot be meant, before anything is uploaded."""
    for text, name in ((asked.stride, "stride"), (asked.window, "window")):
        try:
            windows.frames(text, 25, name)
        except ValueError as error:
            raise Refusal(422, str(error).replace("--", "")) from None
    return asked


@contextlib.contextmanager
def noted(jobs, job, state):
    """Within it /api/progress knows the state of a job; one that is known already is not told anew."""
    own = job and job not in jobs
    if own:
        jobs[job] = state
    try:
        yield
    finally:
        if own:
            del jobs[job]


async def unless_gone(request, awaited):
    """What is awaited; given up when the client goes."""
    task = asyncio.ensure_future(awaited)
    gone = asyncio.ensure_future(left(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(GONE, "The client has gone.")
        return task.result()
    finally:
        await work.given_up([task, gone])


async def left(request):
    """Returns when the client of a request that has been read has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def tell_failures(app):
    """Every failure is answered with {error: one sentence}; what nobody foresaw is told in the server's terminal."""

    def answer(status, sentence, headers=None):
        return JSONResponse({"error": sentence}, status, headers)

    @app.exception_handler(Refusal)
    async def refused(request, error):
        return answer(error.status, error.sentence, {"Retry-After": str(error.after)} if error.after else None)

    @app.exception_handler(RequestValidationError)
    async def unfit(request, error):
        first = error.errors()[0]
        where = str(first["loc"][-1]) if first["loc"] else "request"
        return answer(422, f"{where}: {re.sub(r'^Value error, ', '', first['msg'])}.")

    @app.exception_handler(HTTPException)
    async def known(request, error):
        return answer(error.status_code, f"{error.detail}: see /api.", error.headers)

    @app.exception_handler(Exception)
    async def unforeseen(request, error):
        traceback.print_exception(error)
        return answer(500, "The server failed at this; its terminal says how.")
