"""Two more tasks rendered as the motion suite is: which of two shapes moves how, and in what order a shape changes.

`correspondence`: a red and a blue shape move against one another. What is seen (red, blue) and what moves (left, right)
is the same in two classes of each axis; only their meeting at one place tells them apart, as brushing teeth and
brushing hair (Feichtenhofer et al., CVPR 2016, section 3.1). `order`: one shape is a rectangle, an ellipse and a
triangle, a third of the time each; the class is the order, which no bag of frames has.
"""

import itertools
import math

import numpy as np

OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
CORRESPONDENCE = tuple(f"red_{motion}" for motion in OPPOSITE)
FORMS = ("rectangle", "ellipse", "triangle")
ORDER = tuple("_".join(forms) for forms in itertools.permutations(FORMS))
RED, BLUE = np.array([190.0, 60, 50]), np.array([50.0, 70, 190])
RADIUS = math.log(0.16), math.log(0.2)  # of the two shapes: half a range apart they never touch


def correspondence(plan, label, motion):
    """The layers of a scene filmed as `red_<motion>`: [{shape, states (T, 4), colours}], two shapes."""
    mine = label.removeprefix("red_")
    rng = np.random.default_rng(plan["noise_seed"])
    low, high = motion.RANGES[:2].T
    layers = []
    for k, (hue, name) in enumerate(((RED, mine), (BLUE, OPPOSITE[mine]))):
        state, speed = plan["state"].copy(), plan["speed"].copy()
        state[:2] = low + (state[:2] - low + k * (high - low) / 2) % (high - low)
        states = motion.states(plan | {"state": state, "speed": speed}, name)
        states[:, 3] = rng.uniform(*RADIUS)
        shape, contrast = motion.SHAPES[rng.integers(len(motion.SHAPES))], rng.uniform(15, 35)
        layers.append({"shape": shape, "states": states, "colours": hue + np.array([[-contrast], [contrast]])})
    return layers


def order(plan, label, motion):
    """The layers of a scene filmed as an order of forms: one shape, its form given for each frame by `shown` (T,)."""
    rng, length = np.random.default_rng(plan["noise_seed"]), plan["length"]
    states = motion.states(plan, "still")
    cuts = np.sort(np.rint(np.array([1, 2]) * length / 3 + rng.uniform(-0.4, 0.4, 2)).astype(int))
    turn = np.searchsorted(cuts, np.arange(length), side="right")
    return [
        {"shape": form, "states": states, "colours": plan["foreground_colours"], "shown": turn == k}
        for k, form in enumerate(label.split("_"))
    ]


TASKS = {"correspondence": (CORRESPONDENCE, correspondence), "order": (ORDER, order)}
