"""A net that sees one stack of optical flow and no pixels, on the motion suite: what `frame_pool` lacks, flow gives.

    vidjax train --config=configs/flow_small_motion.py --workdir=runs/flow_small_motion

The same small net as configs/frame_pool_small_motion.py, which stays at chance; here its one input is the flow of five
successive pairs of frames, computed on the host by DIS while the net trains. --config.data.flow.source=device has the
accelerator compute it (method tvl1 or farneback), `stored` reads what `vidjax data flow data/motion --out=DIR` wrote.
Hardware and cost: 2 CPU cores, about two minutes. Expected: 70 % top-1 of 480 held-out videos (1 stack of 5 fields, 1
clip x 1 crop at 40 px); chance is 12.5 %.
"""

from configs import frame_pool_small_motion


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = frame_pool_small_motion.get_config(arg)
    cfg.data.modalities = ("flow",)
    cfg.data.flow = {
        "source": "online",
        "method": "dis",
        "bound": 4.0,
        "stack": 5,
        "form": "stack",
        "subtract": "none",
        "magnitude": False,
        "path": "",
    }
    cfg.data.augment.color = 0.0
    cfg.model.update({"mean": 0.0, "std": 1.0})
    return cfg
