"""The spatial stream of temporal segment networks on UCF101 (Wang et al., ECCV 2016): BN-Inception on three segments.

    vidjax train --config=configs/frame_pool_bn_inception_ucf101.py --workdir=runs/tsn_rgb --splits=1,2,3 \
        --config.data.path=DIR

`--config.init.path` is what `vidjax convert --from=yjxiong:bninception` made of the ImageNet weights; DIR is UCF101
with its official lists. Recipe: section 4.2 with the authors' code: a frame of each of three segments, their scores
averaged before the softmax; partial batch norm (all but the first keep mean and variance); crops of corners and centre
at four scales; dropout 0.8; 128 videos, SGD at 1e-3, a tenth at 1,500 and 3,000 of 3,500 steps. The test is 25 frames x
10 crops; ours averages softmaxes, theirs scores.
Hardware and cost: one GPU; not run yet, so its cost is unknown. Expected: not trained yet; the paper reports 94.0 % for
this stream and that of flow together as the mean of three splits, 94.2 % with warped flow besides.
"""

from configs import quickstart


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg, smoke = quickstart.get_config(arg), arg == "smoke"
    cfg.steps = 4 if smoke else 3_500
    cfg.model = {"name": "frame_pool", "variant": "small" if smoke else "bn_inception", "consensus": "logits"}
    cfg.model.update({"dropout": 0.8, "dtype": "float32" if smoke else "bfloat16"})
    del cfg.data.motion
    cfg.data.update({"source": "ucf101", "path": "data/ucf101", "split": "1"})
    cfg.data.update({"batch_size": 8 if smoke else 128, "short_side": 0 if smoke else 256})
    cfg.data.clip = {"sampler": "segments", "size": 3, "stride": 1}
    cfg.data.augment = {"size": 32 if smoke else 224, "crop": "multi_scale", "flip": 0.5}
    cfg.data.workers = 0 if smoke else 14
    cfg.eval.update({"size": cfg.data.augment.size, "every": 2 if smoke else 500})
    if not smoke:
        cfg.eval.protocol = "two_stream_25x10"
        cfg.init = {"path": "runs/bn_inception_imagenet", "skip": "params/head/.*"}
    cfg.optim = {
        "name": "sgd",
        "lr": 1e-3,
        "schedule": "steps",
        "boundaries": (1_500, 3_000),
        "warmup": 0,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "clip_norm": 20.0,
        "frozen_norms": "backbone/(?!bn1$|conv1_7x7_s2/).*",  # bn1 is the first of the small net
    }
    cfg.loss.label_smoothing = 0.0
    cfg.checkpoint_every, cfg.keep, cfg.log_every = (2 if smoke else 500), 3, (1 if smoke else 50)
    return cfg
