"""A request's video on the disk for as long as it is needed: as a form's file or as the whole body, never too long."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
import typing

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from vidjax.serve.refusals import GONE, Refusal

MB = 1 << 20
LONGEST = 200  # characters of a file's name that are kept
FORM = 64 << 10  # bytes that a form may have around its file
SENT_ON = 2.0  # seconds for which a refused client may go on sending, so that it comes to read the answer


class Upload(typing.NamedTuple):
    """A video that was sent: where it is, what the client calls it, and a digest of its bytes."""

    path: str
    name: str
    digest: bytes


@contextlib.asynccontextmanager
async def received(request, folder, limit, seconds, name=""):
    """An Upload within a folder of its own, which is deleted in the end. Refusal: too long, too slow, not there.

    `limit` in MB. The client's `name` of it is never part of a path.
    """
    place = tempfile.mkdtemp(dir=folder)
    try:
        try:
            async with asyncio.timeout(seconds):
                upload = await taken(request, place, limit, name)
        except TimeoutError:
            raise Refusal(408, f"The upload took longer than {seconds:g} s.") from None
        yield upload
    finally:
        shutil.rmtree(place, ignore_errors=True)


async def taken(request, place, limit, name):
    """Writes the video of a request to a file in `place`: -> Upload."""
    length, long = request.headers.get("content-length", ""), too_long(limit)
    if length.isdecimal() and int(length) > limit * MB + FORM:
        raise long
    form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    path, digest, count = os.path.join(place, "video"), hashlib.sha256(), 0
    with open(path, "wb") as file:
        async for part in in_form(request, limit) if form else chunks(request, limit * MB, long):
            if isinstance(part, str):
                name = name or part
                continue
            digest.update(part)
            count += len(part)
            if count > limit * MB:
                raise long
            file.write(part)
    if not count:
        what = "form has no file `video`, or it is empty" if form else "request has no video in its body"
        raise Refusal(422, f"The {what}: send a video file.")
    return Upload(path, name[:LONGEST] or "video", digest.digest())


def heard_out(app):
    """An ASGI application whose clients may go on sending for a moment before they are answered.

    Browsers and others read no answer while they send. Who waits for leave to send is answered at once.
    """

    async def handle(scope, receive, send):
        sending = scope["type"] == "http" and b"expect" not in dict(scope["headers"])

        async def heard():
            nonlocal sending
            message = await receive()
            sending = sending and message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def answered(message):
            nonlocal sending
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SENT_ON):
                    while sending:
                        await heard()
            sending = False
            await send(message)

        await app(scope, heard, answered)

    return handle


def too_long(limit):
    """The Refusal of more than `limit` MB."""
    return Refusal(413, f"The video is larger than the limit of {limit:g} MB.")


async def chunks(request, limit, refusal):
    """The bytes of a body as they come; raises `refusal` after `limit` of them."""
    count = 0
    try:
        async for chunk in request.stream():
            count += len(chunk)
            if count > limit:
                raise refusal
            yield chunk
    except ClientDisconnect:
        raise Refusal(GONE, "The upload broke off.") from None


async def in_form(request, limit):
    """The name, then the bytes of the file `video` of a form; nothing where there is none. Refusal."""
    stream = chunks(request, limit * MB + FORM, too_long(limit))
    try:
        form = await MultiPartParser(request.headers, stream, max_files=1, max_fields=16).parse()
    except (MultiPartException, KeyError, ValueError, LookupError) as error:
        raise Refusal(400, "The form in the request is damaged: send multipart/form-data.") from error
    try:
        file = form.get("video")
        if file is None or isinstance(file, str):
            return
        yield file.filename or ""
        while chunk := await file.read(MB):
            yield chunk
    finally:
        await form.close()
