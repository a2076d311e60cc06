"""Multi-scale temporal relations on Something-Something v2 (Zhou et al., ECCV 2018): BN-Inception on eight segments.

    vidjax train --config=configs/trn_bn_inception_ssv2.py --workdir=runs/trn_ssv2 --config.data.path=DIR

`--config.init.path` is what `vidjax convert --from=yjxiong:bninception` made of the ImageNet weights; DIR holds the
videos of Something-Something v2 as `vidjax data build` makes them, at --short_side=256. Recipe: section 4 with the
authors' code: a frame of each of eight segments, dropout 0.8, partial batch norm, SGD at 1e-3 with batches of 128
(theirs is 64), a tenth after 25 and 50 of 60 epochs (theirs: 50 and 100 of 120), gradients clipped at 20.
Left and right are part of this data's classes, so nothing is flipped. The test is the centre crop of the middle frames.
Hardware and cost: one GPU; not run yet, so its cost is unknown. Expected: not trained yet; the paper reports 48.8 %
top-1 on the validation set for this stream alone.
"""

from configs import quickstart


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg, smoke = quickstart.get_config(arg), arg == "smoke"
    cfg.steps = 4 if smoke else 60 * (168_913 // 128)
    cfg.model = {"name": "trn", "variant": "small" if smoke else "bn_inception"}
    cfg.model.update({"dtype": "float32" if smoke else "bfloat16"})
    del cfg.data.motion
    cfg.data.update({"batch_size": 8 if smoke else 128, "short_side": 0 if smoke else 256})
    cfg.data.clip = {"sampler": "segments", "size": 4 if smoke else 8, "stride": 1}
    cfg.data.augment = {"size": 32 if smoke else 224, "crop": "multi_scale", "flip": 0.0}
    cfg.data.workers = 0 if smoke else 14
    cfg.eval.update({"size": cfg.data.augment.size, "every": 2 if smoke else 4_000})
    if not smoke:
        cfg.init = {"path": "runs/bn_inception_imagenet", "skip": "params/head/.*"}
    cfg.optim = {
        "name": "sgd",
        "lr": 1e-3,
        "schedule": "steps",
        "boundaries": tuple(epoch * (168_913 // 128) for epoch in (25, 50)),
        "warmup": 0,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "clip_norm": 20.0,
        "frozen_norms": "backbone/(?!bn1$|conv1_7x7_s2/).*",  # bn1 is the first of the small net
    }
    cfg.loss.label_smoothing = 0.0
    cfg.checkpoint_every, cfg.keep, cfg.log_every = (2 if smoke else 2_000), 3, (1 if smoke else 50)
    return cfg
