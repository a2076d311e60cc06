"""TimeSformer with divided attention on Kinetics-400: eight frames that span the video.

    vidjax train --config=configs/timesformer_b_kinetics400.py --workdir=runs/timesformer --config.data.path=DIR

DIR as in configs/r3d_r2plus1d_18_kinetics400.py, at --short_side=320. The recipe is the reference's
TimeSformer_divST_8x32_224 (Bertasius et al., ICML 2021), which starts from an image ViT-B/16 learnt on ImageNet; a
checkpoint of one's own or a converted one is given by --config.init.path=DIR: 8 frames of 224x224, every 32nd, from a
short side of 256 to 320, 8 clips a batch, SGD with momentum at 0.005, a tenth of it from epochs 11 and 14 of 15,
decay 1e-4, drop path up to 0.1. --config.model.variant=b_joint or b_space gives the paper's other schemes.
Hardware and cost: one GPU of 16 GB; not run yet, so its cost is unknown. Expected: not trained yet; the reference
reports 77.9 % top-1 (1 clip x 3 crops).
"""

from configs import vivit_b_16x2_kinetics400


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = vivit_b_16x2_kinetics400.get_config(arg)
    smoke = arg == "smoke"
    epoch = 240_000 // 8
    cfg.steps = 4 if smoke else 15 * epoch
    cfg.model = {"name": "timesformer", "variant": "small" if smoke else "b"}
    if not smoke:
        cfg.model.update({"dtype": "bfloat16", "scan": True})
    cfg.data.update({"batch_size": 8, "short_side": 320})
    cfg.data.clip = {"sampler": "random_clip", "size": 8, "stride": 1 if smoke else 32}
    cfg.data.augment.update({"scale": (0.5, 1.0), "ratio": (0.75, 1.33), "color": 0.0})
    cfg.eval.update({"clips": 1, "crops": 1 if smoke else 3, "every": 2 if smoke else 5 * epoch})
    cfg.optim = {
        "name": "sgd",
        "lr": 5e-3,
        "schedule": "steps",
        "boundaries": (11 * epoch, 14 * epoch),
        "factor": 0.1,
        "warmup": 0,
        "momentum": 0.9,
        "weight_decay": 1e-4,
    }
    return cfg
