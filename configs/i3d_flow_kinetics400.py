"""The flow stream of I3D on Kinetics-400 (Carreira & Zisserman, CVPR 2017): 64 fields of two channels.

    vidjax data flow DIR --out=FLOW --method=tvl1
    vidjax train --config=configs/i3d_flow_kinetics400.py --workdir=runs/i3d_flow --config.data.path=DIR \
        --config.data.flow.path=FLOW

With `--config.init.path=RUN` from an ImageNet run, as configs/i3d_rgb_kinetics400.py, whose recipe this is: kernels
inflated, the first one the mean over colours for x and y. Flow is cut at 20 pixels and divided by them; the paper's is
TV-L1 on the resized video. 155,000 steps, a tenth at 140,000 and 150,000; the authors' rate also fell at 97,000 and
104,500 and rose to 0.1 again at 115,000.
Hardware and cost: the paper has 64 GPUs; not run yet, so its cost is unknown. Expected: not trained yet; the authors
report on Kinetics' test set, with the test of i3d_full, 63.4 % top-1 and 84.9 % top-5 (61.5 % top-1 from scratch).
"""

from configs import i3d_rgb_kinetics400


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg, smoke = i3d_rgb_kinetics400.get_config(arg), arg == "smoke"
    cfg.steps = 4 if smoke else 155_000
    if smoke:
        cfg.model.update({"streams": ("flow",), "mean": 0.0, "std": 1.0})
    else:
        cfg.model.variant = "flow"
        cfg.init.rename = (("(params|batch_stats)/backbone/(.*)", r"\1/flow/\2"),)
        cfg.init.skip, cfg.init.channels = "params/(flow/)?head/.*", True
    cfg.data.modalities = ("flow",)
    cfg.data.flow = {
        "source": "online" if smoke else "stored",
        "path": "" if smoke else "data/kinetics400_flow",
        "stack": 1,
        "bound": 20.0,
    }
    cfg.optim.boundaries = (140_000, 150_000)
    return cfg
