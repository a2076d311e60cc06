"""The two sides of steps_vs_torch.py, each a process of its own: nets, batches, and steps that are timed.

A process reads numbers of steps and answers each with a line of JSON; see `work`.
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import platform
import resource
import sys
import time

import numpy as np

THREADS = int(os.environ.get("THREADS", "2"))  # of each side on a CPU
CLASSES, RATE, MOMENTUM, DECAY, SHARE = 400, 1e-3, 0.9, 0.05, 0.46
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
KINETICS = {"mean": (0.43216, 0.394666, 0.37645), "std": (0.22803, 0.22145, 0.216989)}
PTV, HALF = {"mean": (0.45,) * 3, "std": (0.225,) * 3}, {"mean": (0.5,) * 3, "std": (0.5,) * 3}
TINY = {"image_size": 112, "num_frames": 8, "hidden_size": 96, "num_hidden_layers": 3, "intermediate_size": 192}
TINY |= {"num_attention_heads": 4}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}

NETS = {  # source, its name, frames, size, clips a step, and for --small those that differ
    "r2plus1d_18": {"source": "torchvision", "clip": (16, 112), "batch": 256, "small": {"clip": (8, 112)}} | KINETICS,
    "i3d_r50": {"source": "pytorchvideo", "clip": (8, 224), "batch": 256} | PTV,
    "slowfast_r50": {"source": "pytorchvideo", "clip": (32, 224), "batch": 128, "slow": 4} | PTV,
    "x3d_m": {"source": "pytorchvideo", "clip": (16, 224), "batch": 128} | PTV,
    "vivit_b_16x2": {"source": "hf", "clip": (32, 224), "batch": 64, "net": "Vivit", "adamw": True} | HALF,
    "videomae_large_finetuned_kinetics": {
        "source": "hf",
        "clip": (16, 224),
        "batch": 64,
        "net": "VideoMAE",
        "adamw": True,
        "fields": LARGE | {"use_mean_pooling": True},
    }
    | IMAGENET,
}
for _name, _tiny in (("vivit_b_16x2", "vivit_tiny"), ("videomae_large_finetuned_kinetics", "videomae_tiny")):
    _fields = {key: value for key, value in NETS[_name].get("fields", {}).items() if key not in TINY} | TINY
    NETS[_name]["small"] = {"arch": _tiny, "clip": (8, 112), "batch": 2, "fields": _fields}


def net_of(name, small):
    """The row of a net, with what --small changes."""
    row = {"arch": name, "fields": {}, "adamw": False, "slow": 0} | NETS[name]
    return row | ({"batch": 1} | row.get("small", {}) if small else {})


def pool(row, batch):
    """Three batches of random bytes and labels: (uint8 (B, T, S, S, 3), int32 (B,))."""
    rng, (frames, size) = np.random.default_rng(1), row["clip"]
    shape = (batch, frames, size, size, 3)
    return [(rng.integers(0, 256, shape, np.uint8), rng.integers(0, CLASSES, batch, np.int32)) for _ in range(3)]


# vidjax -----------------------------------------------------------------------------------------------------------


class JaxSide:
    """vidjax's net with the weights that PyTorch's process has written."""

    def __init__(self, row, args, folder):
        if args.small:
            from vidjax import main

            os.environ.setdefault("XLA_FLAGS", main.EIGEN)  # as `vidjax` sets it
        import jax
        import jax.numpy as jnp
        import optax

        from vidjax import convert, models, train
        from vidjax.train import state

        self.jax, self.device = jax, jax.devices()[0]
        if not args.small and self.device.platform != "gpu":
            raise RuntimeError("JAX sees no GPU; --small is for a CPU.")
        with np.load(folder / "weights.npz") as tensors:
            variables = convert.from_reference(row["source"], row["arch"], dict(tensors))
        model = models.for_reference(row["source"], row["arch"], CLASSES)
        off = {name: 0.0 for name in ("dropout", "drop_path") if hasattr(model, name)}
        model = model.clone(**off, mean=row["mean"], std=row["std"])
        with np.load(folder / "check.npz") as check, jax.default_matmul_precision("highest"):
            logits = jax.jit(lambda v, x: model.apply(v, x, train=False)[0])(
                variables, check["video"] / np.float32(255)
            )
            bound = 1e-3 * np.abs(check["logits"]).max()  # sums of other orders through up to 150 layers
            np.testing.assert_allclose(logits, check["logits"], rtol=0, atol=bound)
        frames, size = row["clip"]
        self.macs = models.macs(model, (1, frames, size, size, 3))
        if not args.small:
            model = model.clone(dtype="bfloat16")
        sgd, adamw = optax.sgd(RATE, MOMENTUM), optax.adamw(RATE, weight_decay=DECAY)
        tx = adamw if row["adamw"] else sgd
        variables = jax.device_put(variables)
        self.state = state.State(jnp.int32(0), variables, tx.init(variables["params"]))

        def step(state, video, label):
            batch = {"inputs": {"rgb": video}, "label": label, "mask": jnp.ones(len(label))}
            return train.train_step(state, batch, model=model, tx=tx, seed=0)

        self.step = jax.jit(step, donate_argnums=0)
        self.ahead = None

    def feed(self, batches):
        from vidjax import sharding

        self.ahead = sharding.prefetch(itertools.cycle(batches), self.jax.device_put)

    def run(self, steps):
        """(seconds, those of them that the host waited for a batch, loss of the first step)."""
        waited, losses, began = 0.0, [], time.perf_counter()
        for _ in range(steps):
            since = time.perf_counter()
            _, (video, label) = next(self.ahead)
            waited += time.perf_counter() - since
            self.state, metrics = self.step(self.state, video, label)
            losses.append(metrics["loss"])
        self.jax.block_until_ready((self.state, losses))
        return time.perf_counter() - began, waited, float(losses[0])

    def peak(self):
        stats = self.device.memory_stats() if self.device.platform == "gpu" else None
        return stats["peak_bytes_in_use"] if stats else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def versions(self):
        import jaxlib

        text = f"jax {self.jax.__version__}, jaxlib {jaxlib.__version__}"
        with contextlib.suppress(ImportError, AttributeError):
            from jax._src.lib import cuda_versions

            text += f", cuDNN {cuda_versions.cudnn_get_version()}, CUDA {cuda_versions.cuda_runtime_get_version()}"
        return text, self.device.device_kind


# PyTorch ----------------------------------------------------------------------------------------------------------


def torch_net(row):
    """PyTorch's net; ImportError where its library is missing."""
    import torch

    for name in ("nms", "qnms"):  # operators that torchvision's import expects, whose wheel needs PyTorch with CUDA
        if torch.version.cuda is None:
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch.manual_seed(0)
    if row["source"] == "hf":
        import transformers

        cfg = getattr(transformers, f"{row['net']}Config")(num_labels=CLASSES, **row["fields"])
        return getattr(transformers, f"{row['net']}ForVideoClassification")(cfg)
    if row["source"] == "torchvision":
        from torchvision.models import video

        return getattr(video, row["arch"])(weights=None, num_classes=CLASSES)
    from torchvision.transforms import functional

    sys.modules.setdefault("torchvision.transforms.functional_tensor", functional)  # its name in older releases
    from pytorchvideo.models import hub

    return getattr(hub, row["arch"])(pretrained=False, model_num_class=CLASSES)


def torch_forward(net, row):
    """A module: uint8 (B, T, H, W, 3) -> logits."""
    import torch

    class Forward(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net
            for key in ("mean", "std"):
                self.register_buffer(key, torch.tensor(row[key]).view(1, 3, 1, 1, 1), persistent=False)

        def forward(self, video):
            x = (video.permute(0, 4, 1, 2, 3).float() / 255 - self.mean) / self.std
            if row["source"] == "hf":
                return self.net(pixel_values=x.transpose(1, 2)).logits
            x = x.contiguous(memory_format=torch.channels_last_3d)
            return self.net([x[:, :, :: row["slow"]], x] if row["slow"] else x)

    return Forward()


class TorchSide:
    """PyTorch's net; writes its weights and the logits of one clip."""

    def __init__(self, row, args, folder):
        import torch

        self.torch, self.small = torch, args.small
        if args.small:
            torch.set_num_threads(THREADS)
        if not args.small and not torch.cuda.is_available():
            raise RuntimeError("PyTorch sees no GPU; --small is for a CPU.")
        self.device = torch.device("cpu" if args.small else "cuda")
        if not args.small:
            torch.cuda.set_per_process_memory_fraction(SHARE)
            torch.backends.cudnn.benchmark = True
        net = torch_net(row)
        for module in net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        np.savez(folder / "weights.npz", **{key: value.numpy() for key, value in net.state_dict().items()})
        model = torch_forward(net, row).to(self.device)
        video = pool(row, 1)[0][0]
        torch.backends.cudnn.allow_tf32 = False  # for the logits; autocast has its own type later
        with torch.no_grad():
            logits = model.eval()(torch.from_numpy(video).to(self.device)).float().cpu().numpy()
        np.savez(folder / "check.npz", video=video, logits=logits)
        if row["source"] != "hf":
            model = model.to(memory_format=torch.channels_last_3d)
        self.model = model.train()
        options = {"fused": not args.small}
        if row["adamw"]:
            self.optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY, **options)
        else:
            self.optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, **options)
        if args.compile != "none":
            self.model = torch.compile(model, mode=None if args.compile == "default" else args.compile)

    def feed(self, batches):
        make = (lambda x: self.torch.from_numpy(x)) if self.small else (lambda x: self.torch.from_numpy(x).pin_memory())
        self.batches = itertools.cycle([(make(video), make(label).long()) for video, label in batches])
        self.stream = None if self.small else self.torch.cuda.Stream()
        self.next = self.fetch()

    def fetch(self):
        """A batch on its way to the device, on a stream of its own."""
        with self.torch.cuda.stream(self.stream) if self.stream else contextlib.nullcontext():
            return [x.to(self.device, non_blocking=True) for x in next(self.batches)]

    def run(self, steps):
        """As JaxSide's."""
        waited, losses, began = 0.0, [], time.perf_counter()
        for _ in range(steps):
            since = time.perf_counter()
            if self.stream:
                self.torch.cuda.current_stream().wait_stream(self.stream)
                for x in self.next:
                    x.record_stream(self.torch.cuda.current_stream())
            video, label = self.next
            self.next = self.fetch()
            waited += time.perf_counter() - since
            self.optimizer.zero_grad(set_to_none=True)
            with self.torch.autocast(self.device.type, self.torch.bfloat16, enabled=not self.small):
                logits = self.model(video)
            loss = self.torch.nn.functional.cross_entropy(logits.float(), label)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        if not self.small:
            self.torch.cuda.synchronize()
        return time.perf_counter() - began, waited, losses[0].item()

    def peak(self):
        if self.small:
            return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return self.torch.cuda.max_memory_allocated()

    def versions(self):
        torch = self.torch
        text = f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, CUDA {torch.version.cuda}"
        for name in ("torchvision", "transformers"):
            text += f", {name} {sys.modules[name].__version__}" if name in sys.modules else ""
        return text, platform.processor() if self.small else torch.cuda.get_device_name()


def work(args):
    """One framework's process: a line of JSON for each line on its standard input, which is a number of steps."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere
    row = net_of(args.only, args.small)
    if args.small:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    answer = lambda **said: print(json.dumps(said), file=answers, flush=True)  # noqa: E731
    try:
        side = {"jax": JaxSide, "torch": TorchSide}[args.side](row, args, pathlib.Path(args.folder))
        side.feed(pool(row, args.batch))
        answer(versions=side.versions(), macs=getattr(side, "macs", 0))
        for line in sys.stdin:
            seconds, waited, loss = side.run(int(line))
            answer(seconds=seconds, waited=waited, loss=loss, peak=side.peak())
    except ImportError as error:
        answer(missing=str(error))
    except Exception as error:
        if "out of memory" not in str(error).lower() and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        answer(full=True)


def arguments(parser):
    """Those that both files know."""
    parser.add_argument("--only", default="", help="only nets whose name contains this")
    parser.add_argument("--small", action="store_true", help="on a CPU, in float32, a clip or two a step")
    parser.add_argument("--batch", type=int, help="clips a step, instead of each net's own")
    parser.add_argument("--compile", help="torch.compile's mode, such as default or max-autotune, or none")
    return parser


if __name__ == "__main__":
    own = arguments(argparse.ArgumentParser(description=__doc__))
    own.add_argument("side", choices=["jax", "torch"])
    own.add_argument("folder")
    work(own.parse_args())
