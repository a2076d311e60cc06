"""The single-frame baseline on the motion suite: one frame says nothing about the class, so it must stay at chance.

    vidjax train --config=configs/frame_pool_small_motion.py --workdir=runs/single_frame

Hardware and cost: 2 CPU cores, about a minute. Expected: near chance, 12.5 % top-1 of 480 held-out videos (1 frame,
1 clip x 1 crop at 40 px).
"""

from configs import quickstart


def get_config(arg=""):
    """The quickstart's config with a 2-D net on one frame."""
    cfg = quickstart.get_config(arg)
    cfg.model = {"name": "frame_pool", "variant": "small"}
    cfg.data.clip.size = 1
    return cfg
