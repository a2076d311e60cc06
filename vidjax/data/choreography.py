"""Who moves how in the motion suite: the shapes of a scene, their paths, and three suites of classes made of them.

`motion`: one shape moves in one of eight ways. `correspondence`: a red and a blue shape move against one another; what
is seen (red, blue) and what moves (left, right) is the same in two classes of each axis, and only their meeting at one
place tells them apart, as brushing teeth and brushing hair (Feichtenhofer et al., CVPR 2016, section 3.1). `order`: one
shape is a red rectangle, a blue ellipse and a green triangle, a third of the time each; the class is the order, which a
bag of frames has not.
"""

import itertools
import math

import numpy as np

# Per frame, in units of the clip's speeds: x (right), y (down), angle (clockwise), log-size.
MOTIONS = {
    "left": (-1, 0, 0, 0),
    "right": (1, 0, 0, 0),
    "up": (0, -1, 0, 0),
    "down": (0, 1, 0, 0),
    "clockwise": (0, 0, 1, 0),
    "counterclockwise": (0, 0, -1, 0),
    "grow": (0, 0, 0, 1),
    "shrink": (0, 0, 0, -1),
    "still": (0, 0, 0, 0),
}
CLASSES = tuple(name for name in MOTIONS if name != "still")
FLIP_PAIRS = (("left", "right"), ("clockwise", "counterclockwise"))
FLIP = {a: b for pair in FLIP_PAIRS for a, b in (pair, pair[::-1])}

# The shape's state in a frame, in widths of the picture and radians: centre, angle, log of its radius.
RANGES = np.array([(0.18, 0.82), (0.18, 0.82), (0.0, 2 * math.pi), (math.log(0.14), math.log(0.4))])
SPEEDS = np.array([(0.03, 0.06), (0.03, 0.06), (0.14, 0.28), (0.05, 0.08)])
SHAPES = ("rectangle", "ellipse", "triangle", "cross")
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
RED, BLUE = np.array([190.0, 60, 50]), np.array([50.0, 70, 190])
SMALL = math.log(0.13), math.log(0.16)  # log-radius of two shapes that, half a range apart, do not touch
FORMS = {"rectangle": RED, "ellipse": BLUE, "triangle": np.array([70.0, 170, 60])}  # and their hues


def states(plan, label):
    """Centre x, y, angle and log-radius of the shape in every frame of a scene filmed as class `label`: (T, 4)."""
    low, high = RANGES.T
    time = np.arange(plan["length"])[:, None] - plan["reference"]
    return low + (plan["state"] + time * plan["speed"] * np.array(MOTIONS[label]) - low) % (high - low)


def one_moves(plan, label):
    """The one shape of a scene filmed as a class of `motion`: [{shape, states (T, 4), colours (2, 3)}]."""
    return [{"shape": plan["shape"], "states": states(plan, label), "colours": plan["foreground_colours"]}]


def two_move(plan, label):
    """The two shapes of a scene filmed as `red_<motion>`; the blue one goes the opposite way."""
    mine = label.removeprefix("red_")
    rng, layers = np.random.default_rng(plan["noise_seed"]), []
    low, high = RANGES[:2].T
    for k, (hue, name) in enumerate(((RED, mine), (BLUE, OPPOSITE[mine]))):
        state = plan["state"].copy()
        state[:2] = low + (state[:2] - low + k * (high - low) / 2) % (high - low)
        path = states(plan | {"state": state}, name)
        path[:, 3] = rng.uniform(*SMALL)
        contrast = rng.uniform(15, 35) * np.array([[-1], [1]])
        layers.append({"shape": SHAPES[rng.integers(len(SHAPES))], "states": path, "colours": hue + contrast})
    return layers


def one_changes(plan, label):
    """The one shape of a scene filmed as an order of forms, once for each form; `shown` (T,) says when."""
    rng, length = np.random.default_rng(plan["noise_seed"]), plan["length"]
    cuts = np.sort(np.rint(np.array([1, 2]) * length / 3 + rng.uniform(-0.4, 0.4, 2)))
    turn = np.searchsorted(cuts, np.arange(length), side="right")
    contrast, path = rng.uniform(15, 35) * np.array([[-1], [1]]), states(plan, "still")
    forms = enumerate(label.split("_"))
    return [{"shape": f, "states": path, "shown": turn == k, "colours": FORMS[f] + contrast} for k, f in forms]


SUITES = {  # name: (classes, the shapes of a scene filmed as one of them)
    "motion": (CLASSES, one_moves),
    "correspondence": (tuple(f"red_{motion}" for motion in OPPOSITE), two_move),
    "order": (tuple("_".join(forms) for forms in itertools.permutations(FORMS)), one_changes),
}
