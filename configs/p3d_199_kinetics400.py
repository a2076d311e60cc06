"""P3D-199 on Kinetics-400, or on any folder of real videos with a GPU or TPU behind it.

    vidjax train --config=configs/p3d_199_kinetics400.py --workdir=runs/p3d_k400 --config.data.path=DIR

DIR as in configs/r3d_r2plus1d_18_kinetics400.py, at --short_side=182. The recipe is the one Qiu et al. (ICCV 2017,
section 5) give for Sports-1M: 16 frames of 160x160 out of 182x242, batches of 128, SGD from 0.001, divided by 10 every
60,000 steps, 150,000 steps, dropout 0.1. They begin with ResNet-152's ImageNet weights.
Hardware and cost: made for 8 GPUs at 128 clips a batch; not run yet, so its cost is unknown. Expected: not trained yet;
the paper reports no Kinetics-400 number for this net; on Sports-1M 47.9 % per clip, 66.4 % top-1 and 87.4 % top-5 per
video (20 centre crops).
"""

from configs import slow_r50_kinetics400


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = slow_r50_kinetics400.get_config(arg)
    if arg == "smoke":
        cfg.model = {"name": "p3d", "variant": "small"}
        return cfg
    cfg.steps = 150_000
    cfg.model = {"name": "p3d", "variant": "199", "dropout": 0.1, "dtype": "bfloat16"}
    cfg.data.update({"batch_size": 128, "short_side": 182})
    cfg.data.clip = {"sampler": "random_clip", "size": 16, "stride": 1}
    cfg.data.augment.update({"size": 160, "scale": (0.5, 0.8)})
    cfg.eval.update({"size": 160, "clips": 20, "crops": 1, "every": 10_000})
    cfg.optim.update({"lr": 1e-3, "warmup": 0, "schedule": "steps", "boundaries": (60_000, 120_000), "factor": 0.1})
    return cfg
