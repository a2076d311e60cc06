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

from configs import frame_pool_bn_inception_ucf101


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg, smoke = frame_pool_bn_inception_ucf101.get_config(arg), arg == "smoke"
    cfg.steps = 4 if smoke else 60 * (168_913 // 128)
    cfg.model = {"name": "trn", "variant": "small" if smoke else "bn_inception"}
    cfg.model.update({"dtype": "float32" if smoke else "bfloat16"})
    cfg.data.update({"source": "auto", "path": "data/ssv2"})
    del cfg.data.split
    cfg.data.clip.size = 4 if smoke else 8
    cfg.data.augment.flip = 0.0  # its classes tell left from right
    cfg.eval.every = 2 if smoke else 4_000
    if "protocol" in cfg.eval:
        del cfg.eval.protocol
    if not smoke:
        cfg.init.skip = r"params/(head|project|relation\d+)/.*"
    cfg.optim.boundaries = tuple(epoch * (168_913 // 128) for epoch in (25, 50))
    cfg.checkpoint_every = 2 if smoke else 2_000
    return cfg
