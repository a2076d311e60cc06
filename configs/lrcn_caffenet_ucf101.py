"""LRCN on UCF101 (Donahue et al., CVPR 2015): CaffeNet hybrid, LSTM of 256, a class for each of 16 frames.

    vidjax train --config=configs/lrcn_caffenet_ucf101.py --workdir=runs/lrcn --splits=1,2,3 --config.data.path=DIR

DIR is UCF101 with its official lists. Recipe of the released code: 24 clips of 16 frames a batch, 227 px of 240x320,
mirror images, SGD at 1e-3, a tenth every 10,000 of 30,000 steps, momentum 0.9, weight decay 0.005, gradients clipped at
5, the classifier ten times as fast; every step learns the clip's class. There the CNN comes from a single-frame net
that was fine-tuned from ImageNet: give such a run as `--config.init.path`. The test is 16 frames at every 8th x 10
crops, softmaxes averaged over steps, clips and crops.
Hardware and cost: one GPU; not run yet, so its cost is unknown. Expected: not trained yet; the paper reports 68.2 %
top-1 (mean of three splits, CNN from ImageNet) and 67.4 % for single frames.
"""

from configs import quickstart


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg, smoke = quickstart.get_config(arg), arg == "smoke"
    cfg.steps = 4 if smoke else 30_000
    cfg.model = {"name": "lrcn", "variant": "small" if smoke else "caffenet", "head": "steps"}
    del cfg.data.motion
    cfg.data.update({"source": "ucf101", "path": "data/ucf101", "split": "1"})
    cfg.data.update({"batch_size": 8 if smoke else 24, "short_side": 0 if smoke else 240})
    cfg.data.clip = {"sampler": "random_clip", "size": 4 if smoke else 16, "stride": 1}
    cfg.data.augment = {"size": 32 if smoke else 227, "crop": "random", "flip": 0.5}
    cfg.data.workers = 0 if smoke else 14
    cfg.eval.update({"size": cfg.data.augment.size, "every": 2 if smoke else 5_000, "average": "prob"})
    if not smoke:
        cfg.eval.protocol = "lrcn"
    cfg.optim = {
        "name": "sgd",
        "lr": 1e-3,
        "schedule": "steps",
        "boundaries": (10_000, 20_000),
        "warmup": 0,
        "momentum": 0.9,
        "weight_decay": 5e-3,
        "clip_norm": 5.0,
        "groups": (("head/.*", 10.0),),
    }
    cfg.loss = {"label_smoothing": 0.0, "weights": {"main": 0.0, "steps": 1.0}}
    cfg.checkpoint_every, cfg.keep, cfg.log_every = (2 if smoke else 1_000), 3, (1 if smoke else 50)
    return cfg
