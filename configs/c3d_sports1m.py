"""C3D on Sports-1M from nothing (Tran et al., ICCV 2015, section 3.3).

    vidjax train --config=configs/c3d_sports1m.py --workdir=runs/c3d_sports1m --config.data.path=DIR

DIR holds Sports-1M's lists and the videos that are still to be had; a short side of 128 suffices. Recipe: 16 frames
in a row of 128x171, crops of 112, mirror images, SGD with batches of 30 at 0.003, halved every 150,000 steps, 1.9 M
steps; momentum and weight decay are those of the authors' solvers. Ours: the aspect ratio is kept, a mean by channel is
subtracted where theirs was a volume, a sigmoid per class as videos have several labels. The test is one centre crop of
10 clips.
Hardware and cost: not run yet, so its cost is unknown; a step is 3.5 TMAC. Expected: not trained yet; the paper reports
44.9 % clip top-1, 60.0 % video top-1 and 84.4 % video top-5 from scratch (46.1, 61.1, 85.2 % fine-tuned from I380K).
"""

from configs import quickstart


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = quickstart.get_config(arg)
    smoke = arg == "smoke"
    cfg.steps = 4 if smoke else 1_900_000
    cfg.model = {"name": "c3d", "variant": "small" if smoke else "c3d"}
    del cfg.data.motion
    cfg.data.update({"source": "sports1m", "batch_size": 8 if smoke else 30, "short_side": 0 if smoke else 128})
    cfg.data.clip = {"sampler": "random_clip", "size": 8 if smoke else 16, "stride": 1}
    cfg.data.augment = {"size": 32 if smoke else 112, "crop": "random", "flip": 0.5}
    cfg.data.workers = 0 if smoke else 14
    views = {"clips": 1} if smoke else {"clips": 10, "resize": 128}
    cfg.eval.update(views | {"size": cfg.data.augment.size, "every": 2 if smoke else 50_000, "allow_bad": True})
    cfg.optim = {
        "name": "sgd",
        "lr": 0.003,
        "schedule": "steps",
        "boundaries": tuple(range(150_000, 1_900_000, 150_000)),
        "factor": 0.5,
        "warmup": 0,
        "momentum": 0.9,
        "weight_decay": 5e-4,
    }
    cfg.loss.label_smoothing = 0.0
    cfg.checkpoint_every, cfg.keep, cfg.log_every = (2 if smoke else 10_000), 3, (1 if smoke else 100)
    return cfg
