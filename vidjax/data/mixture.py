"""Several data sets as one source, each with classes and a weight of its own: what a net with several heads trains on.

The classes of all sets stand one after the other, as `SET/CLASS`; `task` of a record says which set it is from, and a
softmax over that set's classes alone makes one wide head the same as one head for each set.
"""

import dataclasses

from vidjax.data import order


@dataclasses.dataclass(frozen=True)
class Mixed:
    """A source made of `parts`, in order; labels and classes of part t follow those of the parts before it."""

    parts: tuple
    names: tuple
    weights: tuple
    name: str = "mixture"
    multi_label: bool = False

    def __len__(self):
        return sum(map(len, self.parts))

    def __getitem__(self, i):
        before = 0
        for task, part in enumerate(self.parts):
            if i < len(part):
                record = part[i]
                label = before + record["label"]
                return record | {"label": label, "task": task, "id": f"{self.names[task]}/{record['id']}"}
            i, before = i - len(part), before + len(part.classes)
        raise IndexError(i)

    @property
    def classes(self):
        named = zip(self.names, self.parts, strict=True)
        return tuple(f"{name}/{label}" for name, part in named for label in part.classes)

    @property
    def tasks(self):
        """The set of each class: (C,) ints."""
        return tuple(task for task, part in enumerate(self.parts) for _ in part.classes)

    @property
    def flip_pairs(self):
        named = zip(self.names, self.parts, strict=True)
        return tuple((f"{n}/{a}", f"{n}/{b}") for n, part in named for a, b in part.flip_pairs)

    @property
    def counts(self):
        """The sums of the parts' counts; see `sources.Videos`."""
        counts = [part.counts for part in self.parts]
        total = {key: sum(count[key] for count in counts) for key in counts[0] if key != "classes"}
        each = {f"{name}/{c}": n for name, x in zip(self.names, counts, strict=True) for c, n in x["classes"].items()}
        return total | {"classes": each}


def build(sections, split, build_one):
    """The Mixed source of {name: section with `weight`} for one split; `build_one(section, split)` makes each part."""
    parts, weights = [], []
    for name, section in sections.items():
        section = dict(section)
        weights.append(float(section.pop("weight", 1.0)))
        parts.append(build_one(section, split))
        if weights[-1] <= 0:
            raise ValueError(f"data.mixture.{name}.weight must be above 0, not {weights[-1]}")
        if parts[-1].multi_label:
            raise ValueError(f"data.mixture.{name} has several labels a video; a mixture needs one each")
    return Mixed(tuple(parts), tuple(sections), tuple(weights))


@dataclasses.dataclass(frozen=True)
class Order:
    """Positions of a mixture -> index into the Mixed source, in proportion to its weights."""

    source: Mixed
    seed: int

    def __len__(self):
        return len(self.source)

    def __getitem__(self, position):
        lengths = tuple(map(len, self.source.parts))
        task, index = order.Mixture(lengths, self.source.weights, self.seed)[position]
        return sum(lengths[:task]) + index
