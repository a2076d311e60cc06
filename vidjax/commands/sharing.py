"""What others may use: a page to drop videos on."""

import importlib.util

from vidjax.commandflags import serve_flags, step_flag, weights_flags
from vidjax.commandline import UsageError, parse, workdir_flag
from vidjax.commands.seeing import predictor_of

WEB = ("fastapi", "uvicorn", "python_multipart", "websockets")


def serve(argv):
    """Open a page to drop a video or a camera on and see its labels over time; the same as an HTTP API.

    vidjax serve --weights=runs/quickstart
    vidjax serve --weights=r3d_18.pth --from=torchvision:r3d_18 --port=8080 --max_upload=500
    curl -F video=@my_video.mp4 "http://127.0.0.1:8000/api/predict?top=3"

    The page is http://127.0.0.1:8000/, for this machine alone; /api tells what programs may ask, /openapi.json
    describes it. Uploads are deleted when they are answered. --host=0.0.0.0 opens it to all who can reach this machine.
    """
    values, words = parse(serve, argv, [workdir_flag, step_flag, weights_flags, serve_flags])
    if words or bool(values.weights) == bool(values.workdir):
        raise UsageError("give a run or weights, and nothing else: vidjax serve --weights=RUN_OR_FILE.")
    lacking = [name.replace("_", "-") for name in WEB if importlib.util.find_spec(name) is None]
    if lacking:
        raise UsageError(f"the page needs {', '.join(lacking)}: pip install 'vidjax[web]'.")
    from vidjax import serve as owner

    limits = owner.Limits(values.max_upload, values.timeout, values.max_frames, places=values.queue)
    return owner.run(predictor_of(values), limits, values.host, values.port, values.names)
