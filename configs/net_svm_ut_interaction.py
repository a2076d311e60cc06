"""A trained net's activation and a linear SVM on UT-Interaction: what a net learnt elsewhere is worth here.

    vidjax convert --from=keras_lrcn:amine_lrcn6 lrcn.h5 --to=runs/ucf50_lrcn
    vidjax fit --config=configs/net_svm_ut_interaction.py --splits=1-20 --workdir=runs/ut/lrcn \\
        --config.features.path=runs/ucf50_lrcn --config.features.layer=pre_logits

The data set's own protocol: split k holds sequence k out and trains on the nine others of its set. Any run or converted
checkpoint serves, with its own preprocessing and views (or --config.eval.clips, crops, protocol); its weights stay as
they are. Hardware and cost: 2 CPU cores, minutes.
Expected: see the README; chance is 16.7 %.
"""

from configs import idt_ut_interaction


def get_config(arg=""):
    """The config; `arg="smoke"` reads no data of its own."""
    cfg = idt_ut_interaction.get_config(arg)
    cfg.model = {"name": "net", "variant": "and a linear SVM"}
    cfg.features = {"kind": "network", "path": "runs/ucf50_lrcn", "layer": "pre_logits"}
    cfg.svm.c = 10.0
    cfg.eval.average = "l2"
    return cfg
