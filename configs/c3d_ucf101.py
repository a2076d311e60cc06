"""C3D fine-tuned on UCF101 from Sports-1M (Tran et al., ICCV 2015).

    vidjax train --config=configs/c3d_ucf101.py --workdir=runs/c3d_ucf101 --splits=1,2,3

`--config.init.path` is the run of configs/c3d_sports1m.py, or converted weights. Recipe: the authors' solver for
fine-tuning (facebookarchive/C3D): batches of 30 at 1e-4, a tenth every 5,000 steps, 20,000 steps, weight decay 5e-4.
The paper's own figures on UCF101 are not these: it trains a linear SVM on fc6 of the Sports-1M net, see
configs/c3d_fc6_svm_ucf101.py. The test is one centre crop of 10 clips.
Hardware and cost: one GPU; not run yet, so its cost is unknown. Expected: not trained yet; MMAction2 reports 83.08 % on
split 1 for such a run (10 clips x 1 crop), the paper 82.3 % for the SVM on one net and 85.2 % on three.
"""

from configs import c3d_sports1m


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = c3d_sports1m.get_config(arg)
    smoke = arg == "smoke"
    cfg.steps = 4 if smoke else 20_000
    cfg.data.update({"source": "ucf101", "path": "data/ucf101", "split": "1"})
    cfg.eval.update({"every": 2 if smoke else 5_000, "allow_bad": False})
    cfg.optim.update({"lr": 1e-4, "boundaries": (5_000, 10_000, 15_000), "factor": 0.1})
    cfg.init = {"path": "runs/c3d_sports1m", "skip": "params/head/.*"}
    cfg.checkpoint_every = 2 if smoke else 2_000
    return cfg
