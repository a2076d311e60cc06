"""SlowFast 8x8 R50 on Kinetics-400, or on any folder of real videos with a GPU or TPU behind it.

    vidjax train --config=configs/slowfast_8x8_r50_kinetics400.py --workdir=runs/slowfast_k400 --config.data.path=DIR

DIR as in configs/r3d_r2plus1d_18_kinetics400.py, at --short_side=256. The recipe is that of Feichtenhofer et al. (ICCV
2019, section 4.1) and PySlowFast's SLOWFAST_8x8_R50.yaml: 32 frames of 224x224, every second, of which the slow pathway
sees eight, from a short side of 256 to 320, 196 epochs with 34 of warm-up, half a cosine from 0.1 for 64 clips.
Hardware and cost: made for 8 GPUs at 64 clips a batch; not run yet, so its cost is unknown. Expected: not trained yet;
PySlowFast reports 77.0 % and pytorchvideo 76.94 % top-1 (10 clips x 3 crops of 256).
"""

from configs import slow_r50_kinetics400


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = slow_r50_kinetics400.get_config(arg)
    if arg == "smoke":
        cfg.model = {"name": "slowfast", "variant": "small"}
        return cfg
    cfg.model = {"name": "slowfast", "variant": "8x8_r50", "slow_sampling": "linspace", "dtype": "bfloat16"}
    cfg.data.clip = {"sampler": "random_clip", "size": 32, "stride": 2}
    return cfg
