"""The temporal stream of temporal segment networks on UCF101 (Wang et al., ECCV 2016): five flow fields a segment.

    vidjax data flow DIR --out=FLOW
    vidjax train --config=configs/frame_pool_bn_inception_flow_ucf101.py --workdir=runs/tsn_flow --splits=1,2,3 \
        --config.data.path=DIR --config.data.flow.path=FLOW

Its first kernel starts as the mean over colours of the ImageNet one (cross-modality, section 4.1). Recipe: that of
configs/frame_pool_bn_inception_ucf101.py, but SGD at 5e-3, a tenth at 10,000 and 16,000 of 18,000 steps, dropout 0.7.
Theirs is TV-L1 flow within 20 pixels; ours what `vidjax data flow` stores. `vidjax fuse` of both streams' scores, flow
weighing 1.5, is the paper's fusion.
Hardware and cost: one GPU; not run yet, so its cost is unknown. Expected: not trained yet; the paper reports 94.0 % for
both streams as the mean of three splits.
"""

from configs import frame_pool_bn_inception_ucf101


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg, smoke = frame_pool_bn_inception_ucf101.get_config(arg), arg == "smoke"
    cfg.steps = 4 if smoke else 18_000
    std = 1.0 if smoke else 2 / 255  # of flow in [-1, 1]: the net's inputs are bytes without their middle
    cfg.model.update({"order": "RGB", "mean": 0.0, "std": std, "dropout": 0.7})
    cfg.data.modalities = ("flow",)
    cfg.data.flow = {"source": "online" if smoke else "stored", "path": "" if smoke else "data/ucf101_flow"}
    cfg.data.flow.stack = 2 if smoke else 5
    cfg.optim.update({"lr": 5e-3, "boundaries": (10_000, 16_000)})
    if not smoke:
        cfg.init.channels = True
    return cfg
