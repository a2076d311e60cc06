"""The spatial stream of two-stream networks on UCF101 (Simonyan & Zisserman, NIPS 2014): one frame, CNN-M-2048.

    vidjax train --config=configs/two_stream_spatial_ucf101.py --workdir=runs/spatial --splits=1,2,3 \
        --config.data.path=DIR

FILE.py:vgg16 is VGG-16 from ImageNet (Wang et al., arXiv:1507.02159); `--config.init.path` is what `vidjax convert
--from=torchvision:vgg16` made of its weights. DIR is UCF101 with its official lists. Recipe: section 5: 256 frames,
uniform over classes, 224 px of a short side of 256, mirror images, jitter of colours, SGD, momentum 0.9; from scratch
1e-2, a tenth at 50,000 and 70,000 of 80,000 steps, dropout 0.9; from ImageNet a tenth at 14,000 of 20,000. Ours: weight
decay 5e-4, bfloat16. The test is 25 frames x 10 crops, softmaxes averaged.
Hardware and cost: one GPU; not run yet, so its cost is unknown. Expected: not trained yet; the paper reports 52.3 % on
split 1 from scratch with dropout 0.9, 72.8 % fine-tuned from ImageNet, 73.0 % as the mean of three splits.
"""

from configs import quickstart


def get_config(arg=""):
    """The config; `arg="vgg16"` is the net from ImageNet, `arg="smoke"` shrinks it to seconds."""
    if arg not in ("", "vgg16", "smoke"):
        raise ValueError(f"The config's argument is vgg16 or smoke, not {arg!r}.")
    cfg, smoke, pretrained = quickstart.get_config(arg), arg == "smoke", arg == "vgg16"
    cfg.steps = 4 if smoke else 20_000 if pretrained else 80_000
    variant = "small" if smoke else "vgg16_spatial" if pretrained else "spatial"
    cfg.model = {"name": "two_stream", "variant": variant, "dtype": "float32" if smoke else "bfloat16"}
    if smoke:
        cfg.model.temporal = ""
    del cfg.data.motion
    cfg.data.update({"source": "ucf101", "path": "data/ucf101", "split": "1", "order": "balanced"})
    cfg.data.update({"batch_size": 8 if smoke else 256, "short_side": 0 if smoke else 256})
    cfg.data.clip = {"sampler": "random_clip", "size": 1, "stride": 1}
    cfg.data.augment = {"size": 32 if smoke else 224, "crop": "random", "flip": 0.5, "color": 0.2}
    cfg.data.workers = 0 if smoke else 14
    cfg.eval.update({"size": cfg.data.augment.size, "every": 2 if smoke else 5_000, "average": "prob"})
    if not smoke:
        cfg.eval.protocol = "two_stream_25x10"
    cfg.optim = {
        "name": "sgd",
        "lr": 1e-3 if smoke else 1e-2,
        "schedule": "steps",
        "boundaries": (14_000,) if pretrained else (50_000, 70_000),
        "warmup": 0,
        "momentum": 0.9,
        "weight_decay": 5e-4,
    }
    cfg.loss.label_smoothing = 0.0
    if pretrained:
        cfg.init = {
            "path": "runs/vgg16_imagenet",
            "rename": (("params/backbone/(.*)", r"params/spatial/\1"),),
            "skip": "params/(spatial_)?head/.*",
        }
    cfg.checkpoint_every, cfg.keep, cfg.log_every = (2 if smoke else 1_000), 3, (1 if smoke else 50)
    return cfg
