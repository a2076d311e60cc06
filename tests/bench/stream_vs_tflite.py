"""A stream of MoViNet-A0 at 172 x 172 beside the published TFLite model, on the same frames in one process.

    pip install ai-edge-litert
    python tests/bench/stream_vs_tflite.py                     # the two nets in turn, then end to end
    python tests/bench/stream_vs_tflite.py --rounds=9 --frames=200

The nets have the same weights (golden/weights/movinet_a0_stream_livestock, dynamic-range TFLite), two threads each, and
run one after the other in every round; a line has the medians over the rounds, and the best round's p95. TFLite runs
with one and with two threads, and its faster way counts. "net" is from bytes of one frame at its size to logits and
states; "end to end" from the moment that a frame of a 25 fps H.264 file at its own pace comes (320 x 240), through
decoding, transforms and the net, every frame, to its scores: `vidjax predict --stream --rate=25`, TFLite behind the
same reader. "as fast as it goes" drops nothing. "renewed" is the default, where a successor of the state sees every
frame too once a clip is over. The load is printed: measure below 1.5.
"""

import argparse
import os
import pathlib
import statistics
import tempfile
import time

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT"
)  # as vidjax/main.py

import numpy as np  # noqa: E402
from ai_edge_litert.interpreter import Interpreter  # noqa: E402

from vidjax.convert import converted  # noqa: E402
from vidjax.data import video  # noqa: E402
from vidjax.predict import Predictor, live  # noqa: E402
from vidjax.predict.live import nets, rows  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = pathlib.Path(os.environ.get("VIDJAX_GOLDEN", ROOT.parent / "shared" / "golden"))
NAME, WARM = GOLDEN / "weights" / "movinet_a0_stream_livestock", 5


class TFLite:
    """The published model behind the methods of `nets.Stateful`: its states go from its outputs to its inputs."""

    waiting, recomputes, every = 2, False, 1

    def __init__(self, threads):
        self.interpreter = Interpreter(f"{NAME}_dynamic.tflite", num_threads=threads)
        self.run = self.interpreter.get_signature_runner()
        self.shapes = {k: (d["shape"], d["dtype"]) for k, d in self.run.get_input_details().items() if k != "image"}
        self.forget()

    def see(self, row):
        found = self.run(image=row.inputs["rgb"].astype(np.float32) / 255, **self.state)
        self.state = {key: found.pop(key) for key in self.state}
        (self.logits,) = found.values()

    def scores(self, short=False):
        grown = np.exp(self.logits[0] - self.logits[0].max())
        return grown / grown.sum()

    def forget(self):
        self.state = {key: np.zeros(*shape) for key, shape in self.shapes.items()}


def frames_of(count):
    """Rows of the golden clip's frames, again and again."""
    with np.load(GOLDEN / "expected" / "movinet_a0_stream_livestock_soccer_juggling.npz") as found:
        pictures = found["frames_uint8"]
    return [rows.Row({"rgb": pictures[i % len(pictures)][None, None]}, 0.0, 0.0, 0.0, 0) for i in range(count)]


def timed(net, frames):
    """Seconds that each frame takes a net."""
    seconds = []
    net.forget()
    for row in frames:
        start = time.perf_counter()
        net.see(row)
        net.scores()
        seconds.append(time.perf_counter() - start)
    return seconds[WARM:]


def followed(net, predictor, path, pace):
    """(latencies, frames a second, dropped) of a file through the whole way with a net at its end."""
    made, nets.make = nets.make, lambda *_: net
    net.forget()
    try:
        counts, found = live.begin(predictor, path, live.Options(rate=25.0, pace=pace))
    finally:
        nets.make = made
    start = time.perf_counter()
    seconds = [one.latency for one in found]
    return seconds[WARM:], len(seconds) / (time.perf_counter() - start), counts.dropped


def clip(folder, frames):
    """A file of the golden clip's own pictures, 25 a second."""
    source = next((GOLDEN / "video" / "clips").glob("*SoccerJuggling*"))
    count = video.probe(source)["num_frames"]
    order = [i % (2 * count - 2) for i in range(frames)]  # to and fro
    video.write(folder / "clip.mp4", video.read(source, [min(i, 2 * count - 2 - i) for i in order]), 25)
    return str(folder / "clip.mp4")


def tell(name, found):
    """Prints the sides of one measurement, {side: a list of rounds of seconds}, and the first's ratio to each other."""
    p = {side: [np.percentile(one, [50, 95, 99]) * 1000 for one in rounds] for side, rounds in found.items()}
    middle = {side: np.median(one, axis=0) for side, one in p.items()}
    first = next(iter(found))
    for side in found:
        ratios = " ".join(f"{x:.2f}" for x in middle[first] / middle[side])
        shown = "  ".join(f"p{n} {x:5.1f}" for n, x in zip((50, 95, 99), middle[side], strict=True))
        best = min(one[1] for one in p[side])
        print(f"{name:<11} {side:<16} {shown} ms  best p95 {best:5.1f}   {first} / it {ratios}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--only", default="net,end,fast")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        converted.write("movinet_tflite", "a0_stream", f"{NAME}_dynamic.tflite", folder / "run", f"{NAME}_labels.txt")
        predictor, path = Predictor(str(folder / "run")), clip(folder, args.frames)
        sides = {"vidjax": nets.Stateful(predictor, memory=-1), "vidjax, renewed": nets.Stateful(predictor)}
        sides |= {f"TFLite {n} thread{'s' * (n > 1)}": TFLite(n) for n in (1, 2)}
        frames = frames_of(args.frames)
        found = {kind: {side: [] for side in sides} for kind in args.only.split(",")}
        for side in sides.values():
            live.warm(side, frames[0])
        dropped, fast, work = dict.fromkeys(sides, 0), {side: [] for side in sides}, {side: [] for side in sides}
        for number in range(args.rounds):
            print(f"round {number + 1}, load {os.getloadavg()[0]:.2f}", flush=True)
            for side, net in sides.items():
                if "net" in found:
                    start = time.process_time()
                    found["net"][side].append(timed(net, frames))
                    work[side].append(1000 * (time.process_time() - start) / len(frames))
                if "end" in found:
                    seconds, _, lost = followed(net, predictor, path, True)
                    found["end"][side].append(seconds)
                    dropped[side] += lost
                if "fast" in found:
                    fast[side].append(followed(net, predictor, path, False)[1])
        for kind, name in (("net", "net"), ("end", "end to end")):
            if kind in found:
                tell(name, found[kind])
        for side in sides:
            if "net" in found:
                print(f"processor time of all threads  {side:<16} {statistics.median(work[side]):6.1f} ms a frame")
            if "fast" in found:
                print(f"as fast as it goes  {side:<16} {statistics.median(fast[side]):6.1f} frames/s")
        print(f"dropped at 25 frames a second: {dropped}")


if __name__ == "__main__":
    main()
