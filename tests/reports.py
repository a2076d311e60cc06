"""Reports for tests: what an evaluation of made-up scores hands to `report.write`, by the report's contract."""

import json

import numpy as np

from vidjax.evaluate import figures


def report(scores, labels, names, *, ids=None, split="eval", name="motion", step=600, config=None):
    """A report with the keys that it had before there were intervals; scores (N, C), labels (N,) or (N, C)."""
    found, counted = figures.metrics(scores, labels), figures.counted(scores, labels)
    ids = [f"{names[c]}/{i:05d}.mp4" for i, c in enumerate(counted)] if ids is None else list(ids)
    said = scores.argmax(1)
    wrong = [i for i in np.argsort(-scores.max(1), kind="stable") if said[i] != counted[i]][:12]
    rows = zip(names, found["videos"], found["correct"], found["accuracy"], strict=True)
    return {
        "step": step,
        "version": "0.1.0",
        "created": "2026-11-22T10:20:30+00:00",
        "model": {"name": "r3d", "variant": "small", "params": 228_536, "gmac_per_view": 0.081},
        "config": config or {"seed": 0, "optim": {"lr": 0.1}, "data": {"source": name}},
        "config_hash": "c0ffee12",
        "class_names": list(names),
        "data": {
            "name": name,
            "split": split,
            "path": f"data/{name}",
            "videos": len(ids),
            "found": len(ids),
            "bad": [],
            "per_class": found["videos"],
        },
        "views": {
            "frames": 8,
            "stride": 2,
            "sampler": "random_clip",
            "protocol": "",
            "clips": 2,
            "crops": 3,
            "size": 112,
            "average": "prob",
        },
        "chance": 1 / len(names),
        **{key: found[key] for key in ("top1", "top5", "loss", "mean_class", "confusion")},
        "per_class": [{"name": n, "videos": v, "correct": c, "accuracy": a} for n, v, c, a in rows],
        "mistakes": [
            {
                "id": ids[i],
                "label": names[counted[i]],
                "predicted": names[said[i]],
                "probability": float(scores[i, said[i]]),
            }
            for i in wrong
        ],
        "seconds": 61.2,
        "videos_per_second": len(ids) / 61.2,
    }


def full(made, scores, labels):
    """The same with every newer key: intervals, calibration, hits, curves, what changed, throughput."""
    n, several = len(scores), labels.ndim == 2
    hit = labels[np.arange(n), scores.argmax(1)] > 0 if several else scores.argmax(1) == labels
    spread = 1.96 * np.sqrt(made["top1"] * (1 - made["top1"]) / n)
    around = {key: [max(0, made[key] - spread), min(1, made[key] + spread)] for key in ("top1", "mean_class")}
    around["loss"] = [made["loss"] * 0.9, made["loss"] * 1.1]
    steps = np.arange(25, made["step"] + 1, 25)
    train = 0.3 + 2 * np.exp(-steps / 200) + 0.05 * np.sin(steps)
    return made | {
        "intervals": around | {"auc": [0.957, 0.981], "ece": [0.031, 0.058], "top5": [0.99, 1.0], "map": [0.61, 0.66]},
        "map": 0.634 if several else None,
        "auc": 0.97,
        "ece": 0.041,
        "multi_label": several,
        "calibration": calibration(scores.max(1), hit),
        "hit": {"video": {"1": made["top1"], "5": made["top5"]}, "clip": {"1": 0.9 * made["top1"], "5": made["top5"]}},
        "curves": {
            "train/loss": [[int(s), float(v)] for s, v in zip(steps, train, strict=True)],
            "train/accuracy": [[int(s), float(1 - v / 2.4)] for s, v in zip(steps, train, strict=True)],
            "eval/loss": [[300, 0.9], [600, made["loss"]]],
            "eval/top1": [[300, 0.8 * made["top1"]], [600, made["top1"]]],
        },
        "feature_map": feature_map(figures.counted(scores, labels), scores.argmax(1)),
        "pca_curve": {"1": 0.2, "8": 0.7, "64": made["top1"]},
        "recipe": "configs/quickstart.py",
        "changes": ["data.batch_size: 16 -> 32", "optim.lr: 0.1 -> 0.05", "note: None -> a -> b"],
        "throughput": {"videos_per_second": n / 61.2, "views_per_second": 6 * n / 61.2, "seconds": 61.2},
    }


def feature_map(labels, predicted):
    """The contract's `feature_map` of made-up points: those of a class lie together."""
    rng = np.random.default_rng(0)
    centres, around = rng.uniform(0.1, 0.9, (labels.max() + 1, 2)), rng.normal(0, 0.02, (2, len(labels), 2))
    first, second = (centres[labels] + around).round(3).tolist()
    return {
        "layer": "pre_logits",
        "dims": 512,
        "of": len(labels) + 1,
        "labels": labels.tolist(),
        "predicted": predicted.tolist(),
        "ids": [f"{i}.mp4" for i in range(len(labels))],
        "pca": first,
        "explained": [0.31, 0.17],
        "tsne": second,
        "perplexity": 30.0,
    }


def calibration(confidence, hit):
    """The contract's `calibration`, bin by bin: (N,) probabilities of the top class and whether it was right."""
    edges = np.linspace(0, 1, 16)
    inside = [(confidence > low) & (confidence <= high) for low, high in zip(edges[:-1], edges[1:], strict=True)]
    mean = lambda values, rows: float(values[rows].mean()) if rows.any() else None  # noqa: E731
    return {
        "edges": edges.tolist(),
        "videos": [int(rows.sum()) for rows in inside],
        "confidence": [mean(confidence, rows) for rows in inside],
        "accuracy": [mean(hit, rows) for rows in inside],
    }


def scores(classes, n, seed=0, sure=4.0, several=False):
    """Probabilities (n, classes) of a model that is often right, and labels (n,), or (n, classes) of one to three."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), labels] += rng.normal(sure, 1.5, n)
    near = (labels + 1 + (rng.random(n) < 0.3)) % classes  # some classes look like their neighbours
    logits[np.arange(n), near] += rng.normal(sure - 1.5, 1.5, n)
    made = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if not several:
        return made.astype(np.float32), labels
    many = np.zeros((n, classes), np.int8)
    many[np.arange(n), labels] = 1
    many[np.arange(n), near] |= rng.random(n) < 0.5
    return made.astype(np.float32), many


def save(workdir, made, score, labels, ids, name="600"):
    """A report and its scores as files of a workdir, as an evaluation leaves them."""
    workdir.mkdir(parents=True, exist_ok=True)
    plain = lambda value: value.tolist() if hasattr(value, "tolist") else value  # noqa: E731
    (workdir / f"report_{name}.json").write_text(json.dumps(made, default=plain), encoding="utf-8")
    np.savez(workdir / f"scores_{name}.npz", scores=score, labels=labels, ids=np.array(ids))
    return workdir / f"report_{name}.json"
