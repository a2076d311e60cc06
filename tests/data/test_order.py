import collections
import fractions
import pickle

import numpy as np
import pytest

from vidjax.data import clips, order

LABELS = (2, 0, 0, 5, 2, 0, 0, 0)
LENGTHS = (5, 16, 17, 90, 31, 33, 8, 2, 64, 12, 15)

ORDERS = {
    "shuffled": order.Shuffled(11, 3),
    "balanced": order.Balanced(LABELS, 3),
    "multi-label": order.Balanced(((0, 1), (1,), (), (2,)), 3),
    "mixture": order.Mixture((7, order.Balanced(LABELS, 4), 3), (0.5, 0.2, 0.3), 3),
    "bucketed": order.Bucketed(LENGTHS, (16, 64, 32), 4, 3),
}


def first(given, count, start=0):
    return [given[position] for position in range(start, start + count)]


@pytest.mark.parametrize("name", ORDERS)
def test_random_access_equals_sequential(name):
    given = ORDERS[name]
    positions = list(range(4 * len(given)))
    sequential = [given[position] for position in positions]
    order.permutation.cache_clear()
    shuffled = np.random.default_rng(0).permutation(positions)
    assert {int(position): given[position] for position in shuffled} == dict(zip(positions, sequential, strict=True))
    again = pickle.loads(pickle.dumps(given))
    assert again == given
    assert first(again, len(positions)) == sequential


@pytest.mark.parametrize("name", ORDERS)
def test_orders_are_endless_but_not_iterable(name):
    given = ORDERS[name]
    assert given[10**15] == given[10**15]
    with pytest.raises(TypeError, match="not iterable"):
        list(given)
    with pytest.raises(IndexError, match="positions start at 0, got -1"):
        given[-1]


def test_orders_of_other_seeds_differ():
    for make in (
        lambda seed: order.Shuffled(50, seed),
        lambda seed: order.Balanced(tuple(range(10)) * 5, seed),
        lambda seed: order.Mixture((50, 50), (1, 1), seed),
        lambda seed: order.Bucketed(tuple(range(50)), (10, 50), 5, seed),
    ):
        assert first(make(0), 50) != first(make(1), 50)
    assert first(order.Shuffled(50, 0), 50) != first(order.Shuffled(50, 0, stream=1), 50)


def test_shuffled_takes_all_in_every_epoch():
    given = order.Shuffled(11, 3)
    epochs = [first(given, 11, 11 * epoch) for epoch in range(20)]
    assert len(given) == 11
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 20
    assert all(type(index) is int for index in epochs[0])


def test_shuffled_is_uniform():
    """Each of 4 examples comes first in about a quarter of 4,000 epochs: 1,000 +- 5 standard deviations of 27."""
    given = order.Shuffled(4, 0)
    counts = np.bincount([given[4 * epoch] for epoch in range(4000)])
    assert counts.min() > 863
    assert counts.max() < 1137


def test_a_large_order_keeps_few_permutations():
    given = order.Shuffled(500_000, 0)
    order.permutation.cache_clear()
    drawn = {given[position] for position in range(0, 500_000, 250)}
    assert len(drawn) == 2000
    info = order.permutation.cache_info()
    assert (info.misses, info.hits) == (1, 1999)
    assert order.permutation(500_000, 0, 0, 0).nbytes * info.maxsize <= 32e6


def test_permutations_cannot_be_spoilt():
    with pytest.raises(ValueError, match="read-only"):
        order.permutation(5, 0)[0] = 1


def test_balanced_takes_every_class_once_a_turn():
    given = order.Balanced(LABELS, 3)
    for turn in range(30):
        assert sorted(LABELS[i] for i in first(given, 3, 3 * turn)) == [0, 2, 5]
    assert len(given) == 15
    assert set(first(given, 15)) == set(range(8))
    turns = {tuple(LABELS[i] for i in first(given, 3, 3 * turn)) for turn in range(100)}
    assert len(turns) == 6


def test_balanced_takes_all_of_a_class_before_any_again():
    given = order.Balanced(LABELS, 3)
    taken = collections.defaultdict(list)
    for index in first(given, 300):
        taken[LABELS[index]].append(index)
    for label, indices in taken.items():
        videos = [i for i, other in enumerate(LABELS) if other == label]
        rounds = np.reshape(indices[: 100 // len(videos) * len(videos)], (-1, len(videos)))
        assert (np.sort(rounds) == videos).all()
        assert len(videos) == 1 or len(set(map(tuple, rounds.tolist()))) > 1


def test_balanced_with_several_labels():
    given = order.Balanced(((0, 1), (1,), (), (2,)), 3)
    for turn in range(20):
        taken = sorted(first(given, 3, 3 * turn))
        assert taken in ([0, 0, 3], [0, 1, 3])
    assert len(given) == 6


def test_balanced_over_many_examples():
    labels = tuple((np.arange(20_000) ** 2 % 97).tolist())
    given = order.Balanced(labels, 0)
    counts = np.bincount([labels[i] for i in first(given, 10 * len(given.members))], minlength=97)
    assert set(counts[list(set(labels))].tolist()) == {10}


def test_mixture_keeps_its_shares_at_every_position():
    weights = (0.5, 0.2, 0.3)
    given = order.Mixture((7, 20, 3), weights, 3)
    counts = np.zeros(3)
    for position in range(5000):
        which, _ = given[position]
        assert given.counts(position) == counts.tolist()
        counts[which] += 1
        assert np.abs(counts - np.array(weights) * (position + 1)).max() < 3, position
    assert counts.tolist() == [2500, 1000, 1500]
    assert [which for which, _ in first(given, 10)] == [2, 0, 2, 0, 1, 0, 2, 0, 1, 0]


def test_mixture_is_exact_however_far():
    given = order.Mixture((10, 10, 10), (1, 1, 1e-3), 0)
    total = fractions.Fraction("2.001")
    for positions in (10**6, 10**15, 10**18):
        for count, weight in zip(given.counts(positions), ("1", "1", "0.001"), strict=True):
            assert abs(count - fractions.Fraction(weight) / total * positions) < 3


def test_mixture_goes_through_each_order():
    parts = (7, order.Balanced(LABELS, 9), 3)
    given = order.Mixture(parts, (3, 1, 1), 5)
    taken = [[], [], []]
    for which, index in first(given, 500):
        taken[which].append(index)
    assert taken[0] == first(order.Shuffled(7, 5, stream=1), 300)
    assert taken[1] == first(parts[1], 100)
    assert taken[2] == first(order.Shuffled(3, 5, stream=3), 100)


def test_mixture_epoch_takes_every_example():
    given = order.Mixture((7, 20, 3), (0.5, 0.2, 0.3), 3)
    assert len(given) == 99
    assert {pair for pair in first(given, 99) if pair[0] == 1} == {(1, i) for i in range(20)}
    assert given.counts(98)[1] == 19
    assert len(order.Mixture((4,), (2,), 0)) == 4


def test_bucketed_batches_share_a_bucket():
    given = order.Bucketed(LENGTHS, (16, 64, 32), 4, 3)
    assert len(given) == 4 * (2 + 1 + 1)
    for batch in range(40):
        positions = range(4 * batch, 4 * batch + 4)
        buckets = {given.bucket(position) for position in positions}
        assert buckets == {clips.bucket(LENGTHS[given[position]], (16, 32, 64)) for position in positions}
        assert len(buckets) == 1


def test_bucketed_takes_every_example_in_every_epoch():
    given = order.Bucketed(LENGTHS, (16, 64, 32), 4, 3)
    epochs = [first(given, 16, 16 * epoch) for epoch in range(30)]
    for epoch in epochs:
        counts = np.bincount(epoch, minlength=len(LENGTHS))
        by_bucket = {
            size: sorted(counts[[clips.bucket(n, (16, 32, 64)) == size for n in LENGTHS]].tolist())
            for size in (16, 32, 64)
        }
        assert by_bucket == {16: [1, 1, 1, 1, 2, 2], 32: [2, 2], 64: [1, 1, 2]}
    assert len(set(map(tuple, epochs))) == 30
    assert {given.bucket(16 * epoch) for epoch in range(30)} == {16, 32, 64}


def test_bucketed_leaves_out_empty_buckets():
    given = order.Bucketed((3, 4, 200), (8, 16, 100), 2, 0)
    assert len(given) == 4
    assert sorted(given.bucket(position) for position in (0, 2)) == [8, 100]
    assert sorted(first(given, 4)) == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: order.Shuffled(0, 1), "n must be at least 1, got 0"),
        (lambda: order.Balanced((), 1), "at least one labelled example"),
        (lambda: order.Balanced(((), ()), 1), "at least one labelled example"),
        (lambda: order.Mixture((3, 4), (1,), 0), "one weight above 0 for each data set"),
        (lambda: order.Mixture((3, 4), (1, 0), 0), "one weight above 0 for each data set"),
        (lambda: order.Mixture((), (), 0), "one weight above 0 for each data set"),
        (lambda: order.Bucketed((), (8,), 2, 0), "examples must be at least 1, got 0"),
        (lambda: order.Bucketed((3,), (), 2, 0), "buckets must be at least 1, got 0"),
        (lambda: order.Bucketed((3,), (8,), 0, 0), "batch_size must be at least 1, got 0"),
    ],
)
def test_what_makes_no_order_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
