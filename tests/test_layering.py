"""Who may import whom; see the house's rooms."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "vidjax"
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(file):
    """Every module that a file imports anywhere, with `from a import b` as a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = PACKAGE.parent.joinpath(*node.module.split("."))
            files = all((inside / f"{alias.name}.py").exists() for alias in node.names)  # of a folder, not the folder
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | (set() if files else {node.module})
    return names


def owner(parts):
    """The room that a dotted path below the package belongs to: a file of a folder may have rules of its own."""
    own = ".".join(parts[:2])
    return own if own in ALLOWED else parts[0]


def room(file):
    """The room of a file: its folder in the package, or its own name."""
    return owner(file.relative_to(PACKAGE).with_suffix("").parts)


ALLOWED = {
    "__init__": {"loading"},
    "loading": {"checkpoint", "convert", "convert.converted", "convert.weights", "predict"},
    "conv": set(),
    "explain.command": {"data", "explain"},
    "explain": {"attention", "explain"},
    "nn": {"conv"},
    "rules": set(),
    "backbones": {"backbones", "nn", "rules"},
    "recurrent": {"nn"},
    "attention.flash": set(),
    "attention": {"attention.flash", "sequence", "sharding"},
    "transformer": {"attention", "sequence", "sharding"},
    "models": {"attention", "backbones", "models", "nn", "recurrent", "rules", "transformer"},
    "convert.tflite": set(),
    "convert.weights": {"convert.tflite"},
    "convert": {"models"},
    "convert.export": {"checkpoint", "convert", "models"},
    "data": {"data"},
    "flow": {"flow"},
    "mixing": set(),
    "inputs": {"checkpoint", "data", "flow", "models"},
    "bench": {"data", "logs"},
    "data_main": {"bench", "commandline", "config", "data", "flow", "logs"},
    "progress": set(),
    "logs": {"progress"},
    "peers.sockets": set(),
    "peers.stopping": set(),
    "peers": {"peers.sockets", "peers.stopping"},
    "goodput": set(),
    "train.ends": {"peers"},
    "train.finite": set(),
    "train.window": {"train.finite"},
    "train.preflight": {
        *("config", "data", "models", "optim", "peers", "sharding", "train.ends", "train.finite", "transfer"),
    },
    "config": set(),
    "sharding": set(),
    "parallel": {"sharding"},
    "sequence": {"sharding"},
    "averages": {"nn"},
    "optim": {"averages", "sharding"},
    "losses": set(),
    "checkpoint": {"checkpoint"},
    "report": {"data", "progress", "report"},
    "main": {"__version__", "commandline", "commands", "logs", "peers"},
    "commandflags": {"checkpoint", "commandline", "config", "fit", "splits", "transfer"},
    "commandline": {"__version__", "config", "data", "optim", "peers", "sharding", "transfer"},
    "transfer": {"checkpoint", "inflate"},
    "series": {"models"},
    "convert.converted": {
        *("__version__", "checkpoint", "config", "convert", "convert.weights", "data", "evaluate", "models"),
    },
    "encoding": set(),
    "inflate": set(),
    "features.store": {"data"},
    "features.search": {"data", "features", "features.store", "loading"},
    "features.shown": {"data", "features.search", "predict", "report"},
    "features.command": {"data", "evaluate.figures", "features", "features.store", "logs", "predict"},
    "features": {
        *("checkpoint", "data", "evaluate", "evaluate.figures", "evaluate.jobs", "features.store", "inputs", "models"),
        *("predict", "sharding"),
    },
    "fit": {
        *(
            "checkpoint",
            "config",
            "data",
            "encoding",
            "evaluate.maps",
            "evaluate.results",
            "features",
            "logs",
            "report",
        ),
    },
    "fuse": {"encoding", "evaluate.figures", "evaluate.results", "report"},
    "compare": {"compare", "config", "evaluate.figures", "fuse", "report"},
    "splits": {"report"},
    "evaluate.errors": set(),
    "evaluate.maps": set(),
    "evaluate.ranking": set(),
    "evaluate.figures": {"evaluate.ranking"},
    "evaluate.intervals": {"evaluate.figures", "evaluate.ranking"},
    "evaluate.origins": {"config"},
    "evaluate.checks": {"data", "evaluate.errors"},
    "evaluate.results": {
        *("config", "data", "evaluate.errors", "evaluate.figures", "evaluate.intervals", "evaluate.origins", "report"),
    },
    "evaluate.partial": {"checkpoint", "evaluate.results"},
    "evaluate": {
        *("evaluate.figures", "evaluate.maps"),
        *("checkpoint", "data", "evaluate.checks", "evaluate.errors", "evaluate.results", "inputs", "logs", "models"),
        "sharding",
    },
    "evaluate.over_splits": {"evaluate.errors", "evaluate.jobs", "splits"},
    "evaluate.jobs": {
        *("checkpoint", "config", "data", "evaluate", "evaluate.checks", "evaluate.errors", "evaluate.partial"),
        *("evaluate.results", "logs", "report"),
    },
    "serve": {"__version__", "data", "explain", "explain.command", "predict", "predict.live", "serve"},
    "predict": {"checkpoint", "config", "data", "evaluate", "inputs", "logs", "models", "predict"},
    "predict.live": {"backbones", "data", "evaluate", "predict", "predict.live"},
    "train.state": {"averages"},
    "train.loop": {
        *("averages", "data", "evaluate", "evaluate.results", "inputs", "logs", "sharding", "train.ends"),
        *("train.finite", "train.preflight", "train.state", "train.window"),
    },
    "plan.chips": set(),
    "plan.hlo": set(),
    "plan.roofline": set(),
    "plan.aot": {
        *("config", "data", "inputs", "models", "optim", "plan.hlo", "plan.roofline", "sharding", "train"),
        "attention",
    },
    "plan": {"models", "plan.aot", "plan.chips"},
    "train": {
        *("checkpoint", "config", "data", "evaluate", "goodput", "inputs", "logs", "losses", "mixing", "models", "nn"),
        *("optim", "parallel", "peers", "sharding", "train.finite", "train.loop", "train.preflight", "train.state"),
        *("train.window", "transfer"),
    },
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_rooms_import_only_what_lies_below(file):
    if room(file) == "commands":
        return  # every command calls the room that owns it
    used = {owner(name.split(".")[1:]) for name in imports(file) if name.startswith("vidjax.")} - {"__version__"}
    assert used <= ALLOWED[room(file)]


@pytest.mark.parametrize(
    ("package", "rooms"),
    [
        ("flax.linen", {"backbones", "models", "nn", "recurrent", "transformer"}),
        ("orbax", {"checkpoint"}),
        ("clu", {"logs"}),
        ("h5py", {"convert.weights"}),
        ("grain", {"data"}),
        ("av", {"data"}),
        ("fastapi", {"serve"}),
        ("starlette", {"serve"}),
        ("uvicorn", {"serve"}),
        ("pickle", {"convert.weights"}),
        ("tensorflow", {"convert.weights"}),
    ],
)
def test_a_package_has_one_importer(package, rooms):
    users = {room(f) for f in FILES if any(n == package or n.startswith(package + ".") for n in imports(f))}
    assert users <= rooms


def test_data_knows_no_jax():
    users = [file for file in PACKAGE.joinpath("data").rglob("*.py") if any(n.startswith("jax") for n in imports(file))]
    assert users == []
