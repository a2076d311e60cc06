"""Karpathy's slow fusion, or any of the eight nets of that paper, on Sports-1M (Karpathy et al., CVPR 2014).

    vidjax train --config=configs/karpathy_slow_sports1m.py --workdir=runs/karpathy_slow_sports1m --config.data.path=DIR

FILE.py:NAME trains another net: single, early, late or slow, each also as NAME_multires. `vidjax fuse` of the four
runs' scores is the paper's model average. DIR holds Sports-1M's lists and the videos that are still to be had; a short
side of 200 suffices. Recipe: sections 3.1 and 4.1: SGD at 1e-3, momentum 0.9, weight decay 5e-4, batches of 32,
170 px of 200 (178 for two streams), mirror images, one draw for all frames of a clip. Ours: no asynchronous replicas, a
constant rate where theirs was lowered by hand, crops along the whole long side, a sigmoid per class as videos have
several labels. The test is 20 clips x 4 crops.
Hardware and cost: the paper's cluster took a month; not run here, so its cost is unknown. Expected: not trained yet;
the paper reports video top-1 / top-5 of 60.9 / 80.2 % (slow), 59.3 / 77.7 (single), 57.7 / 76.8 (early), 59.3 / 78.7
(late), 60.0 / 78.5 (single, two streams), 63.9 / 82.4 (average of the four).
"""

from configs import quickstart

CLIPS = {"single": (1, 1), "early": (10, 1), "late": (2, 15), "slow": (10, 1)}  # frames and stride


def get_config(arg=""):
    """The config of the net `arg`, by default slow; `arg="smoke"` shrinks it to seconds."""
    smoke, net = arg == "smoke", "slow" if arg in ("", "smoke") else arg
    fusion = net.removesuffix("_multires")
    if fusion not in CLIPS:
        raise ValueError(
            f"The config's argument is smoke or one of {', '.join(CLIPS)}, or that + _multires, not {arg!r}."
        )
    cfg = quickstart.get_config(arg)
    cfg.steps = 4 if smoke else 500_000_000 // 32
    cfg.model = {"name": "karpathy", "variant": "small" if smoke else net}
    del cfg.data.motion
    cfg.data.update({"source": "sports1m", "batch_size": 8 if smoke else 32, "short_side": 0 if smoke else 200})
    frames, stride = (8, 1) if smoke else CLIPS[fusion]
    cfg.data.clip = {"sampler": "random_clip", "size": frames, "stride": stride}
    size = 32 if smoke else 178 if net != fusion else 170
    cfg.data.augment = {"size": size, "crop": "random", "flip": 0.5}
    cfg.data.workers = 0 if smoke else 14
    # the protocol karpathy_20x4, whose crops of 170 px do not suit two streams
    views = {"clips": 1, "crops": 1} if smoke else {"clips": 20, "crops": 4, "resize": 200}
    cfg.eval.update(views | {"size": size, "every": 2 if smoke else 100_000, "allow_bad": True})
    cfg.optim = {
        "name": "sgd",
        "lr": 1e-3,
        "schedule": "constant",
        "warmup": 0,
        "momentum": 0.9,
        "weight_decay": 5e-4,
    }
    cfg.loss.label_smoothing = 0.0
    cfg.checkpoint_every, cfg.keep, cfg.log_every = (2 if smoke else 10_000), 3, (1 if smoke else 100)
    return cfg
