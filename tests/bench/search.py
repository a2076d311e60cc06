"""How often neighbours share the query's class, and how fast the exact search is beside NumPy's sort.

    python tests/bench/search.py precision features/eval.json --top=10
    python tests/bench/search.py speed --rows=100000 --width=512

`precision` leaves each video of an index with labels out in turn, asks for its nearest, and prints the share that
have its class, beside chance: the share of the others that have it. `speed` searches random rows for ten neighbours of
one query and of a hundred, by `vidjax.features.search` and by `argsort` of NumPy's scores, by turns; medians of
processor seconds, which are also true of a busy machine with OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1.
"""

import argparse
import statistics
import tempfile
import time

import numpy as np

from vidjax.features import search


def precision(args):
    for metric in search.METRICS:
        index = search.load(args.index, args.layer, metric)
        videos, labels = index.rows["path"], index.rows["label"]
        hits, chance = [], []
        for video in np.unique(videos):
            mine = np.flatnonzero(videos == video)
            found = search.best(index, index.vectors[mine], args.top, mine.tolist(), per_video=True)
            hits += [labels[row] == labels[mine[0]] for _, row, _ in found]
            chance.append((np.delete(labels, mine) == labels[mine[0]]).mean())
        print(
            f"{metric} of {index.layer}, {len(chance)} videos: precision at {args.top} {np.mean(hits):.1%}, "
            f"chance {np.mean(chance):.1%}"
        )


def speed(args):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1000, args.width), np.float32)
    draw = lambda n: centres[rng.integers(0, 1000, n)] + rng.standard_normal((n, args.width), np.float32)  # noqa: E731
    vectors = search.unit(draw(args.rows))
    index = search.Index("", {}, "", "cosine", {}, vectors, None)
    sides = {
        "argsort": lambda queries: np.argsort(-(search.unit(queries) @ vectors.T), 1)[:, :10],
        "exact": lambda queries: rows(search.nearest(index, queries, 10)),
    }
    if args.lists:
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            lists = search.lists_of(folder, vectors, "cosine", "")
            print(f"lists of {args.rows} x {args.width}: {time.process_time() - began:.0f} processor seconds")
        sides["approximate"] = lambda queries: rows(search.nearest(index._replace(lists=lists), queries, 10))
    for count in (1, 100):
        queries, taken, found = draw(count), {name: [] for name in sides}, {}
        for _ in range(args.rounds):
            for name, act in sides.items():
                began = time.process_time()
                found[name] = act(queries)
                taken[name].append(time.process_time() - began)
        medians = {name: statistics.median(each) for name, each in taken.items()}
        for name, median in medians.items():
            same = np.mean([len({*a} & {*b}) / 10 for a, b in zip(found["argsort"], found[name], strict=True)])
            ratio = medians["argsort"] / median
            speed_up = f"{1000 * median:.1f} ms, {ratio:.1f} times argsort's speed"
            print(f"{count} queries, {name}: {speed_up}, {same:.1%} of its rows")


def rows(found):
    return [[row for _, row in each] for each in found]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("precision")
    one.add_argument("index")
    one.add_argument("--layer", default="")
    one.add_argument("--top", type=int, default=10)
    one.set_defaults(act=precision)
    two = commands.add_parser("speed")
    two.add_argument("--rows", type=int, default=100_000)
    two.add_argument("--width", type=int, default=512)
    two.add_argument("--rounds", type=int, default=7)
    two.add_argument("--lists", action="store_true", help="also the approximate search")
    two.set_defaults(act=speed)
    args = parser.parse_args()
    args.act(args)


if __name__ == "__main__":
    main()
