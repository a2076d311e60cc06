"""3-D ShuffleNet of twice the width on Kinetics-600, by the recipe of Köpüklü et al. (ICCV workshops 2019).

    vidjax train --config=configs/shufflenet3d_v1_x2_0_kinetics600.py --workdir=runs/k600 --config.data.path=DIR

DIR is as in configs/r3d_r2plus1d_18_kinetics400.py, of Kinetics-600. The recipe is the repository's
(okankop/Efficient-3DCNNs, run-kinetics.sh and opts.py): 16 successive frames, square crops of 0.5 to 1 of the shorter
side at 112x112, mirrored, SGD with momentum 0.9 and weight decay 1e-3 for 64 clips, divided by 10 after 40, 55 and 65
of 70 epochs. Its rate of 0.1 is damped by 0.9, which is 0.01 here. Its own weights read BGR; this run reads RGB.
--config.model.variant takes any width of `vidjax models`.
Hardware and cost: made for 2 GPUs; not run yet, so its cost is unknown. Expected: not trained yet; the paper's table 8
reports 56.84 % top-1 for this net and 55.17 % for ShuffleNetV2 2.0x (the repository averages a video's successive
windows of 16 frames, centre crop). The report's views are 10 clips x 1 crop.
"""

from configs import mobilenet3d_v2_x1_0_jester

EPOCH = 392_622 // 64  # steps


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds."""
    cfg = mobilenet3d_v2_x1_0_jester.get_config(arg)
    cfg.model.update({"name": "shufflenet3d", "variant": "small" if arg == "smoke" else "v1_x2_0"})
    cfg.data.clip.stride = 1
    cfg.data.augment.flip = 0.5
    if arg == "smoke":
        return cfg
    cfg.steps = 70 * EPOCH
    cfg.data.short_side = 128
    cfg.eval.clips = 10
    cfg.optim.boundaries = (40 * EPOCH, 55 * EPOCH, 65 * EPOCH)
    return cfg
