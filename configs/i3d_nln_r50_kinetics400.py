"""I3D-R50 with five non-local blocks on Kinetics-400, or on any folder of real videos with a GPU or TPU behind it.

    vidjax train --config=configs/i3d_nln_r50_kinetics400.py --workdir=runs/i3d_nln_k400 --config.data.path=DIR

DIR as in configs/r3d_r2plus1d_18_kinetics400.py, at --short_side=256. The net is that of Wang et al. (CVPR 2018); the
recipe is PySlowFast's I3D_NLN_8x8_R50.yaml: 8 frames of 224x224, every eighth, 196 epochs with 34 of warm-up, half a
cosine from 0.1 for 64 clips, without ImageNet.
Hardware and cost: made for 8 GPUs at 64 clips a batch; not run yet, so its cost is unknown. Expected: not trained yet;
PySlowFast reports 74.0 % top-1, and 73.5 % without the blocks (10 clips x 3 crops of 256).
"""

from configs import slow_r50_kinetics400


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = slow_r50_kinetics400.get_config(arg)
    if arg == "smoke":
        cfg.model.nonlocal_after = ((), (0,), ())
    else:
        cfg.model.variant = "i3d_nln_r50"
    return cfg
