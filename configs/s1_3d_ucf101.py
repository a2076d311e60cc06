"""The survey's factorised 3-D net on UCF101: four clips through 1x3x3 and 3x1x1 kernels, their mean classified.

    vidjax train --config=configs/s1_3d_ucf101.py --workdir=runs/s1_3d_ucf101 --config.data.path=DIR

DIR holds train/<class>/*.avi and val/<class>/*.avi of one of UCF101's splits (train and test list 01, say), or is what
`vidjax data build` made of them. Every second of 128 frames, 64, are four clips of 16 that do not overlap.
Hardware and cost: made for 1 GPU (20 GMAC a video); not run yet, so its cost is unknown. Expected: not trained yet; the
survey names no figure for this net. The report's views are 1 clip of 64 frames x 1 centre crop.
"""

from configs import r3d_r2plus1d_18_kinetics400

EPOCH = 9_537 // 32  # steps


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = r3d_r2plus1d_18_kinetics400.get_config(arg)
    smoke = arg == "smoke"
    cfg.steps = 4 if smoke else 100 * EPOCH
    cfg.model = {"name": "s1_3d", "variant": "small" if smoke else "base", "clips": 2 if smoke else 4, "dropout": 0.5}
    cfg.data.update({"batch_size": 8 if smoke else 32})
    cfg.data.clip = {"sampler": "random_clip", "size": 8 if smoke else 64, "stride": 1 if smoke else 2}
    cfg.eval.update({"clips": 1, "every": 2 if smoke else 10 * EPOCH, "allow_bad": False})
    cfg.optim.update({"lr": 0.02, "warmup": 2 if smoke else 5 * EPOCH, "weight_decay": 5e-4})
    return cfg
