"""A dilated temporal convolutional network (Lea et al., CVPR 2017) over ResNet-50's frame features, on UCF101.

    vidjax train --config=configs/tcn_dilated_ucf101.py --workdir=runs/tcn --config.data.path=DIR \
        --config.init.path=IMAGENET_RUN

DIR is UCF101 with its official lists; IMAGENET_RUN is what `vidjax convert --from=torchvision:resnet50` made of its
weights, kept as they are. The paper segments long videos; here every step learns the clip's class and their softmaxes
are averaged. Adam at 1e-3 is the paper's; the rest is ours.
Hardware and cost: one GPU; not run yet, so its cost is unknown. Expected: not trained yet; the paper has no figure on
UCF101.
"""

from configs import lrcn_caffenet_ucf101


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg, smoke = lrcn_caffenet_ucf101.get_config(arg), arg == "smoke"
    cfg.model = {"name": "tcn", "variant": "small" if smoke else "dilated"}
    cfg.data.clip = {"sampler": "segments", "size": 4 if smoke else 32, "stride": 1}
    cfg.eval.update({"protocol": "", "resize": 0 if smoke else 256, "size": 32 if smoke else 224})
    cfg.data.augment.size = cfg.eval.size
    cfg.optim = {"name": "adam", "lr": 1e-3, "warmup": 0, "momentum": 0.9}
    if not smoke:
        cfg.steps, cfg.data.short_side = 10_000, 256
        cfg.init = {"path": "runs/resnet50_imagenet", "skip": "params/(tcn|head)/.*"}
        cfg.optim.update({"trained": "(tcn|head)/.*", "frozen_norms": ".*"})
    return cfg
