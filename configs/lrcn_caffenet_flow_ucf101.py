"""LRCN on flow images of UCF101 (Donahue et al., CVPR 2015): x, y and magnitude of one field, LSTM of 1024.

    vidjax data flow DIR --out=FLOW
    vidjax train --config=configs/lrcn_caffenet_flow_ucf101.py --workdir=runs/lrcn_flow --splits=1,2,3 \
        --config.data.path=DIR --config.data.flow.path=FLOW

As configs/lrcn_caffenet_ucf101.py, but for the input, a tenth every 20,000 of 70,000 steps and gradients clipped at 15.
`vidjax fuse` of both nets' scores is the paper's fusion, by weights 1/2 and 1/2 or 1/3 and 2/3.
Hardware and cost: one GPU; not run yet, so its cost is unknown. Expected: not trained yet; the paper reports 77.3 %
top-1 (mean of three splits), fused with RGB 80.9 % and 82.3 %; 1024 units are 1.7 % better than the code's 256.
"""

from configs import lrcn_caffenet_ucf101


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg, smoke = lrcn_caffenet_ucf101.get_config(arg), arg == "smoke"
    if not smoke:
        cfg.model.variant = "caffenet_flow"
        cfg.steps = 70_000
    cfg.data.modalities = ("flow",)
    cfg.data.flow = {
        "source": "online" if smoke else "stored",
        "path": "" if smoke else "data/ucf101_flow",
        "magnitude": True,
    }
    cfg.optim.update({"boundaries": (20_000, 40_000, 60_000), "clip_norm": 15.0})
    return cfg
