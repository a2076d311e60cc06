"""The final net of Feichtenhofer et al. (CVPR 2016) on UCF101: VGG-16 twice, 3-D convolution and pooling after conv5.

    vidjax train --config=configs/two_stream_fusion_vgg16_ucf101.py --workdir=runs/fusion --config.data.path=DIR \
        --config.data.flow.path=FLOW --config.init.path=RUN --splits=1,2,3

FILE.py:vgg16_vgg_m has VGG-M as its temporal net. RUN trained the same nets apart: this config with
`--config.model.name=two_stream`; what it has not, the fusion, starts as a weighted sum. DIR and FLOW are as in
configs/two_stream_temporal_ucf101.py. Recipe: section 3.4 and the released code: T = 5 snippets 5 to 15 frames apart
(here 10), stacks of L = 10 fields cut at 20 pixels, 96 videos a batch, dropout 0.85, SGD at 1e-3, a tenth at every
plateau (here by steps), aspect jitter of 25 %, a loss on either tower and none on their average. The test is 5 clips x
10 crops, where the paper has whole pictures and their mirror images.
Hardware and cost: 8 GPUs; not run yet, so its cost is unknown. Expected: not trained yet; the paper reports 92.5 % for
this net as the mean of three splits (91.8 % without the temporal tower), and 90.40 % for vgg16_vgg_m on split 1.
"""

from configs import two_stream_spatial_ucf101


def get_config(arg=""):
    """The config; `arg="vgg16_vgg_m"` is the mixed net, `arg="smoke"` shrinks it to seconds."""
    if arg not in ("", "vgg16_vgg_m", "smoke"):
        raise ValueError(f"The config's argument is vgg16_vgg_m or smoke, not {arg!r}.")
    smoke = arg == "smoke"
    cfg = two_stream_spatial_ucf101.get_config("smoke" if smoke else "vgg16")
    cfg.model = {"name": "two_stream_fusion", "variant": "small" if smoke else arg or "vgg16"}
    if smoke:
        cfg.model.update({"kernel": (3, 3, 3), "pool_frames": 5, "keep_temporal": True})
    else:
        cfg.model.dtype = "bfloat16"
    cfg.steps = 4 if smoke else 20_000
    cfg.data.modalities = ("rgb", "flow")
    cfg.data.flow = {
        "source": "online" if smoke else "stored",
        "path": "" if smoke else "data/ucf101_flow",
        "stack": 1 if smoke else 10,
        "bound": 20.0,
    }
    cfg.data.batch_size = 8 if smoke else 96
    cfg.data.clip = {"sampler": "random_clip", "size": 5, "stride": 1 if smoke else 10}
    cfg.data.augment = {"size": 32 if smoke else 224, "scale": (0.6, 1.0), "ratio": (0.75, 1.25), "flip": 0.5}
    cfg.eval.update({"clips": 1 if smoke else 5, "crops": 1 if smoke else 10, "resize": 0 if smoke else 256})
    if not smoke:
        cfg.eval.protocol = ""
        cfg.init = {"path": "runs/two_stream_vgg16", "skip": "params/fusion_.*"}
    cfg.optim.update({"lr": 1e-3, "boundaries": (10_000, 15_000)})
    cfg.loss.weights = {"main": 0.0, "spatial": 1.0, "temporal": 1.0}
    return cfg
