"""What Sports-1M teaches for UCF101: slow fusion transferred in the four ways of Karpathy et al. (CVPR 2014, table 3).

    vidjax train --config=configs/karpathy_slow_ucf101.py --workdir=runs/karpathy_slow_ucf101 --splits=1,2,3

FILE.py:REGIME chooses what trains: `top1` the classifier, `top3` (the default) the three fully connected layers, `all`,
or `scratch`, which starts from nothing. The other weights are those of the run in `--config.init.path`. Recipe: dropout
before every trained fully connected layer that keeps 10 %; 50 clips x 4 crops a video. The paper does not give
the rate and length: 1e-3, a tenth of it for the last third, 20,000 steps of 32.
Hardware and cost: one GPU; not run yet, so its cost is unknown. Expected: not trained yet; the paper reports, as means
of three splits, 41.3 % from scratch, 64.1 % for the top layer, 65.4 % for the top three, 62.2 % for all layers.
"""

from configs import karpathy_slow_sports1m

DENSE = ("fc6", "fc7", "head")
REGIMES = {  # what trains, and before which layers there is dropout
    "scratch": (".*", DENSE),
    "top1": ("head/.*", ("head",)),
    "top3": ("(fc6|fc7|head)/.*", DENSE),
    "all": (".*", DENSE),
}


def get_config(arg=""):
    """The config of the regime `arg`, by default top3; `arg="smoke"` shrinks it to seconds."""
    smoke, regime = arg == "smoke", "top3" if arg in ("", "smoke") else arg
    if regime not in REGIMES:
        raise ValueError(f"The config's argument is smoke or one of {', '.join(REGIMES)}, not {arg!r}.")
    cfg = karpathy_slow_sports1m.get_config("smoke" if smoke else "slow")
    trained, dropped = REGIMES[regime]
    cfg.steps = 4 if smoke else 20_000
    cfg.model.update({"dropout": 0.9, "dropped": dropped})
    cfg.data.update({"source": "ucf101", "path": "data/ucf101", "split": "1"})
    cfg.eval.update({"clips": 1 if smoke else 50, "every": 2 if smoke else 5_000, "allow_bad": False})
    cfg.optim.update({"schedule": "steps", "boundaries": (cfg.steps * 2 // 3,), "trained": trained})
    cfg.init = {
        "path": "" if regime == "scratch" else "runs/karpathy_slow_sports1m",
        "skip": "params/head/.*",
    }
    cfg.checkpoint_every = 2 if smoke else 2_000
    return cfg
