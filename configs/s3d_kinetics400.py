"""S3D-G on Kinetics-400 (Xie et al., ECCV 2018): I3D with separable kernels and gates, 64 frames of RGB.

    vidjax train --config=configs/s3d_kinetics400.py --workdir=runs/s3dg --config.data.path=DIR

FILE.py:s3d has no gates; it is torchvision's net, its statistics and padding. The recipe is I3D's, which the paper
follows: configs/i3d_rgb_kinetics400.py, with dropout 0.2. From a 2-D Inception-v1 on ImageNet with
`--config.init.path=RUN`: its kernels are the spatial halves, the temporal ones and the gates start fresh. The test is
that of i3d_full: one clip of 250 frames, the centre of 224 px, logits averaged.
Hardware and cost: made for 32 GPUs at 256 clips a batch; not run yet, so its cost is unknown. Expected: not trained
yet; torchvision reports 68.37 % top-1 for its S3D (5 clips). The paper (unverified: cited from memory) has 74.7 % top-1
for S3D-G and 72.2 % for S3D, both from ImageNet, on the validation set.
"""

from configs import i3d_rgb_kinetics400


def get_config(arg=""):
    """The config; `arg="s3d"` is the net without gates, `arg="smoke"` shrinks it to seconds."""
    if arg not in ("", "s3d", "smoke"):
        raise ValueError(f"The config's argument is s3d or smoke, not {arg!r}.")
    smoke = arg == "smoke"
    cfg = i3d_rgb_kinetics400.get_config("smoke" if smoke else "")
    cfg.model.update({"name": "s3d", "variant": "small" if smoke else arg or "s3dg"})
    if not smoke:
        fresh = ".*/temporal(_bn)?/.*|.*_gate/.*|params/head/.*"
        cfg.init.update({"rename": (("(params|batch_stats)/backbone/(.*)", r"\1/\2"),), "skip": fresh})
    return cfg
