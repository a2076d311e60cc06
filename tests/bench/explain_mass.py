"""How much of each explanation's mass lies on the moving shape, beside the share of the picture that the shape covers.

    python tests/bench/explain_mass.py --workdir=runs/quickstart --videos=64

Of rendered evaluation videos of a run on the motion suite, whose shape is known to the pixel. A map that knew nothing
has a ratio of 1. Prints the median ratio of each method, and the share of videos above 1.
"""

import argparse
import json
import pathlib
import time

import numpy as np

from vidjax import explain, predict
from vidjax.data import motion
from vidjax.explain.maps import normalised


def shape_mask(given, scene, label, cut):
    """Where the shape is: bool (T, H, W) of the middle `cut` pixels."""
    plan = motion.plan_of(given, "eval", scene * len(given["classes"])) | {"noise": 0.0}
    dark, bright = (
        motion.draw(plan | {"foreground_colours": np.full((2, 3), c)}, label, given["size"]) for c in (0, 255)
    )
    edge = (given["size"] - cut) // 2
    return (np.abs(bright.astype(int) - dark).max(-1) > 127)[:, edge : edge + cut, edge : edge + cut]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--data", default="data/motion")
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--methods", default="gradcam,integrated,guided,gradient,occlusion,lime,shap")
    args = parser.parse_args()
    given, predictor = (
        json.loads((pathlib.Path(args.data) / "motion.json").read_text()),
        predict.Predictor(args.workdir),
    )
    apply = lambda x: predictor.model.apply(predictor.variables, x, train=False)  # noqa: E731
    ratios, seconds = {m: [] for m in args.methods.split(",")}, dict.fromkeys(args.methods.split(","), 0.0)
    paths = sorted(pathlib.Path(args.data, "eval").glob("*/*.mp4"), key=lambda p: (p.stem, p.parent.name))
    for path in paths[: args.videos]:
        clip = np.asarray(predictor.inputs(str(path)))[:1]
        mask = shape_mask(given, int(path.stem), path.parent.name, clip.shape[2])[: clip.shape[1]]
        for method in ratios:
            began = time.perf_counter()
            found = np.abs(np.asarray(normalised(explain.explain(apply, clip, method=method))))[0]
            seconds[method] += time.perf_counter() - began
            ratios[method].append(found[mask].sum() / max(found.sum(), 1e-9) / mask.mean())
    print(f"{args.videos} videos; the shape covers {mask.mean():.1%} of the last one")
    for method, found in ratios.items():
        each, above = 1000 * seconds[method] / args.videos, np.mean(np.array(found) > 1)
        print(f"{method:<12} ratio {np.median(found):.2f}, above 1 in {above:.0%}, {each:.0f} ms each")


if __name__ == "__main__":
    main()
