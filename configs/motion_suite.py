"""Any family's small net on one of the rendered suites: what each kind of net can see.

    vidjax train --config=configs/motion_suite.py:i3d --workdir=runs/motion/i3d
    vidjax train --config=configs/motion_suite.py:two_stream_fusion,correspondence --workdir=runs/correspondence/fusion
    vidjax train --config=configs/motion_suite.py:lrcn,order --workdir=runs/order/lrcn

After the colon come a family of `vidjax models`, a suite (motion, correspondence or order, see
vidjax/data/choreography.py), `flow` for a net that sees flow in place of pixels and, for a run of seconds, `smoke`.
Frames and modalities are those of the small variant.
Hardware and cost: 2 CPU cores, two to five minutes. Expected: see the table in the README; chance is 12.5 %, 25 % and
16.7 % top-1 of 480 held-out videos.
"""

from configs import quickstart
from vidjax import models
from vidjax.data import choreography

FLOW = {"source": "online", "method": "farneback", "bound": 3.0}  # on pictures of 48 px DIS finds half the motion


def get_config(arg=""):
    """The config of `FAMILY[,SUITE][,flow][,smoke]`; ValueError for words that are neither."""
    words = [word for word in arg.split(",") if word]
    smoke = "smoke" in words
    suite = next((word for word in words if word in choreography.SUITES), "motion")
    names = [word for word in words if word not in ("smoke", "flow", suite)] or ["r3d"]
    if len(names) > 1:
        raise ValueError(f"configs/motion_suite.py takes one family, a suite, flow, smoke after the colon, not {arg!r}")
    cfg = quickstart.get_config("smoke" if smoke else "")
    cfg.model = {"name": names[0], "variant": "small"}
    shape = models.family(names[0]).SIZES["small"]["input"]
    several = shape if isinstance(shape, dict) else {"rgb" if shape[-1] == 3 else "flow": shape}
    cfg.data.modalities = tuple(several)
    cfg.data.clip.size = next(iter(several.values()))[0]
    if "flow" in several:
        cfg.data.flow = FLOW | {"stack": several["flow"][-1] // 2}
    if "flow" in words:
        cfg.data.modalities = ("flow",)
        cfg.data.flow = FLOW | {"stack": 1}
        cfg.data.augment.color = 0.0
        cfg.model.update({"mean": 0.0, "std": 0.5})
    if names[0] in ("lrcn", "tcn"):
        cfg.loss.weights = {"main": 0.0, "steps": 1.0}  # every step learns the class
    if suite != "motion":
        cfg.data.motion.suite = suite
        cfg.data.motion.out = f"data/{suite}{'_smoke' if smoke else ''}"
        cfg.data.augment.flip_pairs = (("red_left", "red_right"),) if suite == "correspondence" else ()
    if suite == "order":
        cfg.data.clip.sampler = "segments"  # a clip spans the whole video
    return cfg
