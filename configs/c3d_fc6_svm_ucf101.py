"""C3D's descriptor with a linear SVM on UCF101, and how it fares in few dimensions (Tran et al., ICCV 2015).

    vidjax fit --config=configs/c3d_fc6_svm_ucf101.py --workdir=runs/c3d_svm --splits=1,2,3

`--config.features.path` is the run whose net makes the features. Section 4 of the paper: fc6 of 16-frame clips that
overlap by 8, their mean scaled to length 1, one linear SVM; figure 5 for the principal components.
Hardware and cost: one GPU, or hours of CPU; not run on UCF101 yet. Expected: the paper reports 82.3 % (3 splits, one
net), and on few components 10: 52.8 %, 50: 72.6 %, 100: 75.6 %, 500: 79.4 %.
"""

from configs import idt_ut_interaction


def get_config(arg=""):
    """The config; `arg="smoke"` reads no data of its own."""
    cfg = idt_ut_interaction.get_config(arg)
    cfg.model = {"name": "c3d", "variant": "fc6 and a linear SVM"}
    cfg.data = {
        "source": "ucf101",
        "path": "data/ucf101",
        "split": "1",
        "short_side": 128,
        "clip": {"sampler": "random_clip", "size": 16, "stride": 1},
        "augment": {"size": 112},
        "workers": 0,
        "threads": 4,
    }
    cfg.features = {"kind": "network", "path": "runs/c3d_sports1m", "layer": "fc6"}
    cfg.svm = {"c": 1.0, "pca": (10, 50, 100, 500)}
    cfg.eval = {
        "protocol": "c3d_fc6",
        "batch_size": 8,
        "clips": 1,
        "crops": 1,
        "resize": 128,
        "size": 112,
        "average": "l2",
        "allow_bad": False,
    }
    return cfg
