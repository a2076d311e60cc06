"""The single-frame baseline on UT-Interaction: how far appearance alone goes on the same held-out sequences.

    vidjax train --config=configs/frame_pool_small_ut_interaction.py --workdir=runs/ut_single_frame

Hardware and cost: 2 CPU cores, about two minutes. Expected: see the README; chance is 16.7 %.
"""

from configs import ut_interaction


def get_config(arg=""):
    """The UT-Interaction config with a 2-D net on one frame."""
    cfg = ut_interaction.get_config(arg)
    cfg.model = {"name": "frame_pool", "variant": "small", "dropout": 0.3}
    cfg.data.clip.size = 1
    return cfg
