"""Held-out groups: never on both sides, a part of every class, the same whatever else is there."""

import pytest

from vidjax.data import holdout, lists


def rows(classes=3, groups=8, clips=4):
    return [
        {"id": f"{c}/v_{c}_g{g:02d}_c{k:02d}.avi", "label": c}
        for c in "abcdef"[:classes]
        for g in range(groups)
        for k in range(clips)
    ]


def groups(side):
    return {row["id"].rpartition("_")[0] for row in side}


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.99])
def test_groups_are_whole_and_every_class_is_on_both_sides(fraction):
    sides = holdout.held_out(rows(), fraction=fraction, pattern=r"(v_.*_g\d+)_c")
    assert not groups(sides["train"]) & groups(sides["eval"])
    assert len(sides["train"]) + len(sides["eval"]) == 96
    for side in sides.values():
        assert {row["label"] for row in side} == {"a", "b", "c"}


def test_a_group_stays_where_it_was_when_videos_come():
    few, many = (holdout.held_out(rows(groups=n), pattern=r"v_.*_g\d+") for n in (8, 12))
    assert groups(few["eval"]) <= groups(many["eval"])


def test_folds_hold_every_group_once():
    found = [holdout.held_out(rows(), pattern=r"v_.*_g\d+", folds=3, split=str(k)) for k in (1, 2, 3)]
    held = [row["id"] for sides in found for row in sides["eval"]]
    assert sorted(held) == sorted(row["id"] for row in rows())
    for sides in found:
        assert not groups(sides["train"]) & groups(sides["eval"])
        assert {row["label"] for row in sides["eval"]} == {"a", "b", "c"}
    with pytest.raises(ValueError, match="data.folds is 3, so data.split is one of 1 to 3, not ''"):
        holdout.held_out(rows(), folds=3)


def test_people_in_several_classes_are_on_one_side():
    listed = [row | {"group": f"person{i % 5}"} for i, row in enumerate(rows())]
    sides = holdout.held_out(listed)
    assert not {row["group"] for row in sides["train"]} & {row["group"] for row in sides["eval"]}
    assert sides["eval"]
    assert sides["train"]


def test_a_pattern_must_find_every_group(tmp_path):
    with pytest.raises(ValueError, match=r"data.group_pattern '_x\(.\)' finds nothing in a/v_a_g00_c00.avi"):
        holdout.held_out(rows(), pattern="_x(.)")


def test_a_csv_files_groups_are_kept_whole(tmp_path):
    lines = [f"{i}.mp4,{'ab'[i % 2]},p{i // 4}" for i in range(40)]
    (tmp_path / "list.csv").write_text("path,label,person\n" + "\n".join(lines))
    sides = lists.csv_list(tmp_path / "list.csv", group_column="person", held={"folds": 5, "split": "2"})
    assert {row["group"] for row in sides["eval"]}.isdisjoint(row["group"] for row in sides["train"])
    assert len(sides["eval"]) == 8
