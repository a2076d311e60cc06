"""The temporal stream of two-stream networks on UCF101 (Simonyan & Zisserman, NIPS 2014): ten flow fields, CNN-M-2048.

    vidjax data flow DIR --out=FLOW
    vidjax train --config=configs/two_stream_temporal_ucf101.py --workdir=runs/temporal --config.data.path=DIR \
        --config.data.flow.path=FLOW --splits=1,2,3

FILE.py:vgg16 is VGG-16 from ImageNet (Wang et al., arXiv:1507.02159), its first kernel the mean over colours.
Recipe: section 5: stacks of L = 10 fields, each without its mean vector, 256 stacks uniform over classes, dropout 0.9,
SGD at 1e-2, a tenth at 50,000 and 70,000 of 80,000 steps. Theirs is Brox's flow; ours what `vidjax data flow` stores.
`--config.data.flow.form` trajectory or bidirectional are the paper's other inputs. The test is 25 stacks x 10 crops,
softmaxes averaged. `vidjax fuse` of both streams' scores, with `--svm` too, is the paper's fusion.
Hardware and cost: one GPU (the paper: a day on four); not run yet, so its cost is unknown. Expected: not trained yet;
the paper reports on split 1 81.0 % (stacks of 10), 80.2 % (trajectories), 81.2 % (both directions); as means of three
splits, with HMDB51 learnt besides, 83.7 %, averaged with the spatial net 86.9 % and by SVM 88.0 %.
"""

from configs import two_stream_spatial_ucf101


def get_config(arg=""):
    """The config; `arg="vgg16"` is the net from ImageNet, `arg="smoke"` shrinks it to seconds."""
    cfg, smoke = two_stream_spatial_ucf101.get_config(arg), arg == "smoke"
    if smoke:
        cfg.model = {"name": "two_stream", "variant": "small", "spatial": ""}
    else:
        cfg.model.variant = "vgg16_temporal" if arg == "vgg16" else "temporal"
    cfg.data.modalities = ("flow",)
    cfg.data.flow = {
        "source": "online" if smoke else "stored",
        "path": "" if smoke else "data/ucf101_flow",
        "stack": 2 if smoke else 10,
        "subtract": "mean",
    }
    cfg.data.augment.color = 0.0
    if arg == "vgg16":
        cfg.init.rename = (("params/backbone/(.*)", r"params/temporal/\1"),)
        cfg.init.skip, cfg.init.channels = "params/(temporal_)?head/.*", True
        cfg.optim.update({"lr": 5e-3, "boundaries": (10_000, 16_000)})  # arXiv:1507.02159, section 3
    return cfg
