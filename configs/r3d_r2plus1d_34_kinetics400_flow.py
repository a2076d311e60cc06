"""R(2+1)D-34 on the optical flow of Kinetics-400: the second stream of Tran et al. (CVPR 2018, table 5).

    vidjax train --config=configs/r3d_r2plus1d_34_kinetics400_flow.py --workdir=runs/flow --config.data.path=DIR

DIR is as in configs/r3d_r2plus1d_18_kinetics400.py. The flow is Farneback's, as in the paper, one field of two channels
between successive frames, computed on the accelerator while the net trains; to pay for it once, store it with
`vidjax data flow DIR --out=FLOW` and set --config.data.flow.source=stored --config.data.flow.path=FLOW.
Hardware and cost: made for 64 GPUs; not run yet, so its cost is unknown. Expected: not trained yet; the paper reports
67.5 % top-1 from scratch and 68.5 % after Sports-1M (10 clips x 1 centre crop), and 73.9 % and 75.4 % with the mean of
its scores and those of the net that sees RGB.
"""

from configs import r3d_r2plus1d_34_sports1m


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = r3d_r2plus1d_34_sports1m.get_config(arg)
    smoke = arg == "smoke"
    cfg.data.modalities = ("flow",)
    cfg.data.flow = {
        "source": "online" if smoke else "device",
        "method": "farneback",
        "bound": 20.0,
        "stack": 1,
        "form": "stack",
        "subtract": "none",
        "magnitude": False,
        "path": "",
    }
    cfg.model.update({"mean": 0.0, "std": 1.0})  # of flow in [-1, 1]
    cfg.eval.protocol = "" if smoke else "r2plus1d_10"
    return cfg
