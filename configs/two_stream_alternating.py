"""Two streams that take turns, then a fusion layer on their frozen features, on the motion suite.

    vidjax train --config=configs/two_stream_alternating.py --workdir=runs/two_stream_alternating

T frames and T flow fields go through a net each, features are averaged over places and frames. The streams train in
turns, each by a head of its own; then both rest and `head` learns on their joined features. FILE.py:NET takes another
pair of backbones (resnet18, vgg16, inception_v1, ...) and `--config.data.path` a folder of real videos.
Hardware and cost: 2 CPU cores, about ten minutes. Expected: not measured yet; chance is 12.5 %, and so is the spatial
stream, which sees no motion.
"""

from configs import quickstart
from vidjax import backbones

ROUNDS, TURN, FUSION = 6, 50, 100  # turns of both streams, steps of a turn, steps of the fusion layer


def get_config(arg=""):
    """The config; `arg="smoke"` shrinks it to seconds, the name of a backbone uses that twice."""
    cfg, smoke = quickstart.get_config(arg), arg == "smoke"
    turn, rounds, fusion = (1, 1, 2) if smoke else (TURN, ROUNDS, FUSION)
    cfg.steps = 2 * turn * rounds + fusion
    cfg.model = {"name": "two_stream", "variant": "small", "fusion": "concat", "joint": False}
    if arg and not smoke:
        backbones.build(arg)  # an unknown name is an error now
        cfg.model.update({"spatial": arg, "temporal": arg})
    cfg.data.modalities = ("rgb", "flow")
    cfg.data.flow = {"source": "online", "method": "dis", "bound": 4.0, "stack": 1}
    cfg.eval.every = 2 if smoke else 350
    cfg.optim.schedule = "constant"
    cfg.optim.phases = ((turn, "spatial.*"), (turn, "temporal.*")) * rounds + ((fusion, "head/.*"),)
    return cfg
