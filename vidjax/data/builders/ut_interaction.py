"""UT-Interaction, segmented: set1/0_1_4.avi and set2/0_11_4.avi, <number>_<sequence>_<class>.avi (Ryoo & Aggarwal)."""

from vidjax.data.builders import listings

SOURCE = "https://cvrc.ece.utexas.edu/SDHA2010/Human_Interaction.html (segmented sets)"
SETS = {"1": range(1, 11), "2": range(11, 21)}
ODD = {"6": 5, "8": 7}  # all other sequences have six clips, one per class (counted in the published sets)


def blank(name):
    """120 clips, 20 per class; split k holds sequence k out and trains on the others of its set (10 folds a set)."""
    held = {str(sequence): ODD.get(str(sequence), 6) for sequences in SETS.values() for sequence in sequences}
    expected = {(split, side): n for split in held for side, n in (("train", 60 - held[split]), ("eval", held[split]))}
    return listings.Listing(
        name, listings.labels(name), (), expected | {listings.ALL: 120}, extras=("group",), eval_word="test"
    )


def listing(name, root):
    """Rows with ids `set1/0_1_4.avi` and `group` `set1/1` (set and sequence); labels and splits are in the names."""
    found, entries, there = blank(name), [], {}
    for stem, path in sorted(listings.videos(root).items()):
        parts = stem.split("_")
        if len(parts) != 3 or not all(part.isdigit() for part in parts) or int(parts[2]) >= len(found.classes):
            raise ValueError(f"{path} is not named as in UT-Interaction's segmented sets: 0_1_4.avi, class 0 to 5 last")
        sequence = int(parts[1])
        which = next((number for number, sequences in SETS.items() if sequence in sequences), None)
        if which is None:
            raise ValueError(f"{path}: there is no sequence {sequence}; set 1 has 1 to 10, set 2 has 11 to 20")
        key = f"set{which}/{stem}.avi"
        sides = {str(each): "eval" if each == sequence else "train" for each in SETS[which]}
        group = f"set{which}/{sequence}"
        entries.append({"id": key, "label": int(parts[2]), "sides": sides, "group": group})
        there[key] = path
    if not entries:
        raise ValueError(f"{name}: no videos named like set1/0_1_4.avi in {root}: get them from {SOURCE}")
    return listings.fill(found, entries, there)
