"""The answers of the HTTP API, as its OpenAPI description tells them."""

import pydantic


class Label(pydantic.BaseModel):
    label: str
    score: float


class Window(pydantic.BaseModel):
    start: float = pydantic.Field(description="seconds")
    end: float
    frames: list[int] = pydantic.Field(description="the first, and the one after the last")
    top: list[Label]


class Segment(pydantic.BaseModel):
    start: float = pydantic.Field(description="seconds")
    end: float
    frames: list[int] = pydantic.Field(description="the first, and the one after the last")
    label: str
    score: float
    windows: int


class Labels(pydantic.BaseModel):
    """What is in a video, as a line of `vidjax predict --json`."""

    path: str = pydantic.Field(description="the file's name, as the client gave it")
    num_frames: int
    fps: float
    width: int
    height: int
    duration: float
    top: list[Label] = pydantic.Field(description="of the whole video")
    windows: list[Window]
    segments: list[Segment]


class Clip(pydantic.BaseModel):
    sampler: str
    size: int = pydantic.Field(description="frames")
    stride: int


class Limits(pydantic.BaseModel):
    megabytes: float = pydantic.Field(description="of an upload")
    seconds: float = pydantic.Field(description="that an upload may take, and then computing")
    frames: int = pydantic.Field(description="of a video")
    pixels: int = pydantic.Field(description="of a picture")
    places: int = pydantic.Field(description="requests at once")
    cameras: int = pydantic.Field(description="at once")


class Model(pydantic.BaseModel):
    """The net behind the API."""

    name: str
    classes: list[str]
    multi_label: bool = pydantic.Field(description="whether several classes can be true at once")
    clip: Clip
    windows: bool = pydantic.Field(description="whether a window's length may be asked for")
    modalities: list[str]
    methods: dict[str, str] = pydantic.Field(description="of explanation, and what each shows")
    camera: bool = pydantic.Field(description="whether the net can see a camera's frames")
    limits: Limits


class Health(pydantic.BaseModel):
    status: str
    requests: int = pydantic.Field(description="that upload, wait or are computed")
    cameras: int


class Progress(pydantic.BaseModel):
    """How far a request with that `job` is."""

    state: str = pydantic.Field(description="unknown, uploading, waiting or computing")
    done: int = pydantic.Field(description="windows")
    of: int


class Failure(pydantic.BaseModel):
    error: str = pydantic.Field(description="one sentence")
