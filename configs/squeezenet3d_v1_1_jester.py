"""3-D SqueezeNet 1.1 on Jester, the hand gestures, by the recipe of Köpüklü et al. (ICCV workshops 2019).

    vidjax train --config=configs/squeezenet3d_v1_1_jester.py --workdir=runs/jester_squeezenet --config.data.path=DIR

DIR and recipe are those of configs/mobilenet3d_v2_x1_0_jester.py.
Hardware and cost: made for one GPU; not run yet, so its cost is unknown. Expected: not trained yet; the paper's table 8
reports 90.77 % top-1 (validation videos, one centre clip x centre crop).
"""

from configs import mobilenet3d_v2_x1_0_jester


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = mobilenet3d_v2_x1_0_jester.get_config(arg)
    cfg.model.update({"name": "squeezenet3d", "variant": "small" if arg == "smoke" else "v1_1"})
    return cfg
