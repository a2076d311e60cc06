"""Listings of official files in official layouts: exact rows, counts, sides, and one sentence per wrong input."""

import collections
import dataclasses
import json
import logging
import shutil
import subprocess
import sys

import pytest

from vidjax.data import builders, sources
from vidjax.data.builders import listings


@pytest.fixture
def put(tmp_path):
    """Writes {name: text} below the test's folder; an empty text makes the empty file that stands for a video."""

    def write(files, *videos):
        for name, text in (files | dict.fromkeys(videos, "")).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path

    return write


def rows(listing, root):
    """A listing's rows with paths below `root`."""
    return [row | {"path": row["path"].removeprefix(f"{root}/")} for row in listing.rows]


def test_ucf101_lists_of_the_authors_parse_to_the_published_counts(golden, put, tmp_path):
    shutil.copytree(golden / "labels/ucf101_splits", tmp_path / "ucfTrainTestlist")
    archery, flute = "Archery/v_Archery_g01_c01.avi", "PlayingFlute/v_PlayingFlute_g20_c03.avi"
    odd = "HandstandPushups/v_HandStandPushups_g08_c02.avi"  # the capital S is the authors'
    put({}, f"UCF-101/{archery}", f"UCF-101/{flute}", f"UCF-101/{odd}")
    found = builders.listing("ucf101", tmp_path)
    assert rows(found, tmp_path) == [
        {"id": archery, "path": f"UCF-101/{archery}", "label": 2, "sides": {"1": "eval", "2": "train", "3": "train"}},
        {"id": odd, "path": f"UCF-101/{odd}", "label": 36, "sides": {"1": "train", "2": "eval", "3": "train"}},
        {"id": flute, "path": f"UCF-101/{flute}", "label": 61, "sides": {"1": "train", "2": "train", "3": "eval"}},
    ]
    assert found.expected == found.listed | {listings.ALL: 13320}
    assert found.listed["1", "train"] == 9537
    assert found.listed["1", "eval"] == 3783
    assert len(found.missing) == 13317
    assert builders.report(found).splitlines()[:2] == [
        "ucf101 split 1 train: 9,537 expected, 2 found, 9,535 missing",
        "ucf101 split 1 test: 3,783 expected, 1 found, 3,782 missing",
    ]
    assert builders.report(found).splitlines()[-1] == "ucf101: 13,320 expected, 3 found, 13,317 missing"
    assert [row["id"] for row in builders.side(found, "3", "eval")] == [flute]


def test_hmdb51_splits_of_the_authors_have_70_and_30_of_every_class(golden, put, tmp_path):
    shutil.copytree(golden / "labels/hmdb51_splits", tmp_path / "testTrainMulti_7030_splits")
    lines = (tmp_path / "testTrainMulti_7030_splits/wave_test_split1.txt").read_text().splitlines()
    videos = [f"wave/{line.split()[0]}" for line in lines]
    put({}, *videos)
    found = builders.listing("hmdb51", tmp_path)
    assert found.expected == found.listed | {listings.ALL: 6766}
    assert found.listed == {(split, side): n for split in "123" for side, n in (("train", 3570), ("eval", 1530))}
    assert [row["id"] for row in found.rows] == sorted(videos)
    assert {row["label"] for row in found.rows} == {50}
    assert len(found.missing) == 6766 - len(videos)
    uses = {row["id"]: row["sides"].get("1", "") for row in found.rows}
    assert uses == {f"wave/{line.split()[0]}": ("", "train", "eval")[int(line.split()[1])] for line in lines}
    assert collections.Counter(side for row in found.rows for side in row["sides"].items()) == {
        (split, side): n for split in "123" for side, n in (("train", 70), ("eval", 30))
    }


KINETICS = "label,youtube_id,time_start,time_end,split\n"


def test_kinetics_tolerates_missing_links_and_takes_cvdfs_layout(put, tmp_path):
    root = put(
        {
            "annotations/train.csv": KINETICS + "abseiling,-3B32lodo2M,59,69,train\nzumba,gone_gone_g,0,10,train\n",
            "annotations/val.csv": KINETICS + '"petting animal (not cat)",__NrybzYzUg,415.0,425.0,validate\n',
            "annotations/test.csv": "youtube_id,time_start,time_end,split\nabcdefghijk,0,10,test\n",
        },
        "train/-3B32lodo2M_000059_000069.mp4",
        "replacement/replacement_for_corrupted_k400/-3B32lodo2M_000059_000069.mp4",
        "val/petting animal (not cat)/__NrybzYzUg_000415_000425.webm",
        "val/extra_file00_000000_000010.mp4",
    )
    found = builders.listing("kinetics400", root)
    assert rows(found, tmp_path) == [
        {
            "id": "-3B32lodo2M_000059_000069",
            "path": "replacement/replacement_for_corrupted_k400/-3B32lodo2M_000059_000069.mp4",
            "label": 0,
            "sides": {"": "train"},
        },
        {
            "id": "__NrybzYzUg_000415_000425",
            "path": "val/petting animal (not cat)/__NrybzYzUg_000415_000425.webm",
            "label": builders.labels("kinetics400").index("petting animal (not cat)"),
            "sides": {"": "eval"},
        },
    ]
    assert found.missing == ("gone_gone_g_000000_000010",)
    assert builders.report(found).splitlines() == [
        "kinetics400 train: 240,436 expected, 2 listed, 1 found, 1 missing",
        "kinetics400 val: 19,796 expected, 1 found",
        "kinetics400: 3 listed, 2 found, 1 missing",
    ]


def test_the_report_names_what_is_expected_found_and_missing():
    blank = builders.blank("kinetics400")
    held = ({"id": "", "path": "", "label": 0, "sides": {"": "eval"}},) * 19404
    found = dataclasses.replace(blank, rows=held, listed={("", "eval"): 19796})
    assert builders.report(found).splitlines()[1] == "kinetics400 val: 19,796 expected, 19,404 found, 392 missing"


@pytest.mark.parametrize(
    ("name", "file", "classes", "counts"),
    [
        ("kinetics600", "kinetics-600_train.csv", 600, (366016, 27780)),
        ("kinetics700", "kinetics700/train.csv", 700, (522883, 33441)),
        ("kinetics700_2020", "train.csv", 700, (535982, 33640)),
    ],
)
def test_other_kinetics(put, name, file, classes, counts):
    found = builders.listing(
        name, put({file: KINETICS + "zumba,abcdefghijk,1,11,train\n"}, "abcdefghijk_000001_000011.mp4")
    )
    assert [(row["id"], row["label"]) for row in found.rows] == [("abcdefghijk_000001_000011", classes - 1)]
    assert (found.expected["", "train"], found.expected["", "eval"]) == counts


def test_a_clip_listed_twice_counts_once(put, caplog):
    line = "zumba,abcdefghijk,1,11,train\n"
    with caplog.at_level(logging.WARNING, "vidjax"):
        found = builders.listing(
            "kinetics400",
            put(
                {"train.csv": KINETICS + line + line},
                "a/abcdefghijk_000001_000011.mp4",
                "b/abcdefghijk_000001_000011.mp4",
            ),
        )
    assert found.listed == {("", "train"): 1}
    assert [record.getMessage() for record in caplog.records] == [
        f"{found.rows[0]['path'].split('/a/')[0]}: 1 videos are there more than once: the first path of each counts.",
        "kinetics400: 1 ids are listed more than once: the first counts.",
    ]


def something(key, caption, template):
    return {"id": key, "label": caption, "template": template, "placeholders": []}


def test_something_something_v2(put, tmp_path):
    train = [
        something("78687", "holding potato next to vicks vaporub bottle", "Holding [something] next to [something]"),
        something("42326", "pushing a pen from left to right", "Pushing [something] from left to right"),
    ]
    held = [
        something(
            "100", "two cups so they collide", "Moving [something] and [something] so they collide with each other"
        )
    ]
    root = put(
        {
            "labels/train.json": json.dumps(train),
            "labels/validation.json": json.dumps(held),
            "labels/test-answers.csv": "9;Folding something\n",
        },
        *(f"20bn-something-something-v2/{key}.webm" for key in (78687, 42326, 100)),
    )
    found = builders.listing("something_something_v2", root)
    names = builders.labels("something_something_v2")
    assert [(row["id"], names[row["label"]], row["sides"][""], row["caption"]) for row in found.rows] == [
        ("100", "Moving something and something so they collide with each other", "eval", "two cups so they collide"),
        ("42326", "Pushing something from left to right", "train", "pushing a pen from left to right"),
        (
            "78687",
            "Holding something next to something",
            "train",
            "holding potato next to vicks vaporub bottle",
        ),
    ]
    assert found.missing == ("9",)
    assert builders.report(found).splitlines() == [
        "something_something_v2 train: 168,913 expected, 2 found",
        "something_something_v2 val: 24,777 expected, 1 found",
        "something_something_v2 test: 27,157 expected, 1 listed, 0 found, 1 missing",
        "something_something_v2: 4 listed, 3 found, 1 missing",
    ]


@pytest.mark.parametrize(
    ("name", "stem", "folder", "label", "number"),
    [
        ("something_something_v1", "something-something-v1", "20bn-something-something-v1", "Folding something", 9),
        ("jester", "jester-v1", "20bn-jester-v1", "Drumming Fingers", 24),
    ],
)
def test_20bn_csv_files_with_folders_of_frames_or_with_videos(put, tmp_path, name, stem, folder, label, number):
    lists = {f"{stem}-train.csv": f"34870;{label}\n3;{label}\n", f"{stem}-validation.csv": f"7;{label}\n"}
    put(lists | {f"{stem}-test.csv": "12\n"}, f"{folder}/34870/00001.jpg", f"{folder}/7/00001.jpg")
    found = builders.listing(name, tmp_path)
    assert rows(found, tmp_path) == [
        {"id": "34870", "path": f"{folder}/34870", "label": number, "sides": {"": "train"}},
        {"id": "7", "path": f"{folder}/7", "label": number, "sides": {"": "eval"}},
    ]
    assert found.missing == ("3",)
    shutil.rmtree(tmp_path / folder)
    put({}, f"{folder}/01/3.webm")  # a numbered folder without frames is none
    assert rows(builders.listing(name, tmp_path), tmp_path) == [
        {"id": "3", "path": f"{folder}/01/3.webm", "label": number, "sides": {"": "train"}}
    ]


def test_sports1m_is_multi_label_and_most_links_are_gone(put, tmp_path):
    root = put(
        {
            "original/train_partition.txt": "https://www.youtube.com/watch?v=UDqivjS-lpI 169,168\n",
            "original/test_partition.txt": "http://www.youtube.com/watch?v=-_abcDEF012 0\n"
            "http://www.youtube.com/watch?v=gone0000000 486\n",
        },
        "videos/UDqivjS-lpI.mp4",
        "videos/ab/-_abcDEF012.mkv",
    )
    found = builders.listing("sports1m", root)
    assert rows(found, tmp_path) == [
        {"id": "-_abcDEF012", "path": "videos/ab/-_abcDEF012.mkv", "label": (0,), "sides": {"": "eval"}},
        {"id": "UDqivjS-lpI", "path": "videos/UDqivjS-lpI.mp4", "label": (168, 169), "sides": {"": "train"}},
    ]
    assert found.multi_label
    assert builders.report(found).splitlines() == [
        "sports1m train: 1 found",
        "sports1m test: 2 listed, 1 found, 1 missing",
        "sports1m: 1,133,158 expected, 3 listed, 2 found, 1 missing",
    ]


CHARADES = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"


def test_charades_keeps_intervals(put, tmp_path):
    root = put(
        {
            "Charades/Charades_v1_train.csv": CHARADES
            + '46GP8,HR43,Kitchen,6,7,Yes,"A person, cooking.",food;stove,d,'
            + "c092 11.90 21.20;c147 0.00 12.60;c092 0.50 2.00,24.83\n",
            "Charades/Charades_v1_test.csv": CHARADES + "YSKX3,BTLQ,Hall,5,6,Yes,s,o,d,,30.00\n",
        },
        "Charades_v1_480/46GP8.mp4",
        "Charades_v1_480/YSKX3.mp4",
    )
    found = builders.listing("charades", root)
    assert rows(found, tmp_path) == [
        {
            "id": "46GP8",
            "path": "Charades_v1_480/46GP8.mp4",
            "label": (92, 147),
            "sides": {"": "train"},
            "intervals": ((92, 11.9, 21.2), (147, 0.0, 12.6), (92, 0.5, 2.0)),
        },
        {"id": "YSKX3", "path": "Charades_v1_480/YSKX3.mp4", "label": (), "sides": {"": "eval"}, "intervals": ()},
    ]
    assert (found.expected["", "train"], found.expected["", "eval"]) == (7985, 1863)


def test_diving48(put, tmp_path):
    clip = {"vid_name": "dJZYWSbyhGE_00214", "label": 33, "start_frame": 0, "end_frame": 88}
    root = put(
        {
            "Diving48_V2_train.json": json.dumps([clip]),
            "Diving48_V2_test.json": json.dumps([clip | {"vid_name": "x_00000", "label": 0}]),
        },
        "rgb/dJZYWSbyhGE_00214.mp4",
    )
    found = builders.listing("diving48", root)
    assert rows(found, tmp_path) == [
        {"id": "dJZYWSbyhGE_00214", "path": "rgb/dJZYWSbyhGE_00214.mp4", "label": 33, "sides": {"": "train"}}
    ]
    assert found.missing == ("x_00000",)
    assert (found.expected["", "train"], found.expected["", "eval"]) == (15027, 1970)


def test_ut_interaction_holds_one_sequence_of_a_set_out(put, tmp_path):
    found = builders.listing("ut_interaction", put({}, "set1/0_1_4.avi", "set1/6_2_0.avi", "segmented_set2/0_11_3.avi"))
    one, two = (
        {str(each): "eval" if each == own else "train" for each in range(first, first + 10)}
        for first, own in ((1, 1), (11, 11))
    )
    assert rows(found, tmp_path) == [
        {"id": "set1/0_1_4.avi", "path": "set1/0_1_4.avi", "label": 4, "sides": one, "group": "set1/1"},
        {
            "id": "set1/6_2_0.avi",
            "path": "set1/6_2_0.avi",
            "label": 0,
            "sides": one | {"1": "train", "2": "eval"},
            "group": "set1/2",
        },
        {"id": "set2/0_11_3.avi", "path": "segmented_set2/0_11_3.avi", "label": 3, "sides": two, "group": "set2/11"},
    ]


def test_ut_interaction_as_published_is_complete(golden):
    found = builders.listing("ut_interaction", golden / "ut_interaction")
    assert found.expected == found.listed | {listings.ALL: 120}
    assert collections.Counter(row["label"] for row in found.rows) == dict.fromkeys(range(6), 20)
    lines = (golden / "ut_interaction/manifest.csv").read_text().splitlines()[1:]
    manifest = {
        path: (f"set{which}/{sequence}", int(label))
        for path, which, sequence, label in (x.split(",")[:4] for x in lines)
    }
    assert {row["id"]: (row["group"], row["label"]) for row in found.rows} == manifest
    assert builders.report(found).endswith("\nut_interaction: 120 expected, 120 found")


def test_a_folder_of_classes(put, tmp_path, monkeypatch):
    put({}, "train/run/1.mp4", "train/walk/2.mp4", "val/run/3.avi")
    monkeypatch.chdir(tmp_path)
    found = builders.listing("folder", ".")  # paths are absolute all the same
    assert found.classes == ("run", "walk")
    assert rows(found, tmp_path) == [
        {"id": "train/run/1.mp4", "path": "train/run/1.mp4", "label": 0, "sides": {"": "train"}},
        {"id": "train/walk/2.mp4", "path": "train/walk/2.mp4", "label": 1, "sides": {"": "train"}},
        {"id": "val/run/3.avi", "path": "val/run/3.avi", "label": 0, "sides": {"": "eval"}},
    ]
    assert builders.report(found) == "folder train: 2 found\nfolder val: 1 found\nfolder: 3 found"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("ucf101", "ucf101"),
        ("hmdb51", "hmdb51"),
        ("kinetics400", "kinetics_k400"),
        ("kinetics600", "kinetics_k600"),
        ("kinetics700", "kinetics_k700"),
        ("something_something_v1", "sthv1"),
        ("something_something_v2", "sthv2"),
        ("sports1m", "sports1m"),
        ("jester", "jester"),
        ("diving48", "diving48"),
    ],
)
def test_label_lists_are_the_published_ones(golden, name, file):
    assert list(builders.blank(name).classes) == (golden / f"labels/{file}.txt").read_text("utf-8").splitlines()


def test_label_lists_of_every_data_set_name_each_class_once():
    sizes = {name: len(builders.blank(name).classes) for name in builders.NAMES}
    assert sizes == {
        "ucf101": 101,
        "hmdb51": 51,
        "kinetics400": 400,
        "kinetics600": 600,
        "kinetics700": 700,
        "kinetics700_2020": 700,
        "something_something_v1": 174,
        "something_something_v2": 174,
        "jester": 27,
        "sports1m": 487,
        "charades": 157,
        "diving48": 48,
        "ut_interaction": 6,
        "folder": 0,
    }
    for name in builders.NAMES:
        classes = builders.blank(name).classes
        assert len(set(classes)) == len(classes)
        assert all(each == each.strip() != "" for each in classes)


@pytest.mark.parametrize(
    ("name", "swapped"),
    [
        # The label maps of TSM's training code for the two versions; Jester's with clockwise turning besides.
        ("something_something_v1", {2: 4, 4: 2, 30: 41, 41: 30, 52: 66, 66: 52}),
        ("something_something_v2", {86: 87, 87: 86, 93: 94, 94: 93, 166: 167, 167: 166}),
        ("jester", {0: 1, 1: 0, 6: 7, 7: 6, 14: 15, 15: 14}),
        ("kinetics400", {}),
        ("ucf101", {}),
    ],
)
def test_mirror_images_of_classes(name, swapped):
    blank = builders.blank(name)
    flipped = sources.flip_labels(blank.classes, blank.flip_pairs)
    assert {label: other for label, other in enumerate(flipped) if label != other} == swapped


CSV = "train.csv"
WRONG = {
    "unknown set": ("ucf11", {}, "no data set 'ucf11'; did you mean 'ucf101'? There are ucf101, hmdb51,"),
    "no lists": (
        "ucf101",
        {},
        "ucf101: no file trainlist01.txt in {root} or a folder in it: get it from https://www.crcv.ucf.edu/",
    ),
    "no csv": ("kinetics600", {}, "kinetics600: no file train.csv or kinetics-600_train.csv or"),
    "class number": (
        "ucf101",
        {"trainlist01.txt": "Archery/v_Archery_g01_c01.avi 3\nBiking/v_Biking_g01_c01.avi 10\n"},
        "{root}/trainlist01.txt, line 2: '10' is not the number of class Biking, 11",
    ),
    "ucf class": (
        "ucf101",
        {"testlist02.txt": "Archer/v_Archery_g01_c01.avi\n"},
        "{root}/testlist02.txt, line 1: 'Archer' is no class; did you mean 'Archery'?",
    ),
    "both sides": (
        "ucf101",
        {"trainlist01.txt": "Archery/v_A_g01_c01.avi 3\n", "testlist01.txt": "Archery/v_A_g01_c01.avi\n"},
        "{root}/testlist01.txt, line 1: Archery/v_A_g01_c01.avi is already on the other side of split 1",
    ),
    "hmdb use": (
        "hmdb51",
        {"brush_hair_test_split1.txt": "\na.avi 3\n"},
        "{root}/brush_hair_test_split1.txt, line 2: 'a.avi 3' is not a video's name and 0, 1 or 2",
    ),
    "hmdb list": (
        "hmdb51",
        {"brush_hair_test_split1.txt": "a.avi 1\n"},
        "{root}/brush_hair_test_split2.txt cannot be opened: No such file or directory",
    ),
    "kinetics class": (
        "kinetics400",
        {CSV: KINETICS + "abseil,abcdefghijk,0,10,train\n"},
        "{root}/train.csv, line 2: 'abseil' is no class; did you mean 'abseiling'?",
    ),
    "kinetics time": (
        "kinetics400",
        {CSV: KINETICS + "abseiling,abcdefghijk,0,,train\n"},
        "{root}/train.csv, line 2: '0' to '' are not seconds",
    ),
    "kinetics column": (
        "kinetics400",
        {CSV: "label,id\n"},
        "{root}/train.csv has no column 'youtube_id', only 'label', 'id'",
    ),
    "kinetics comma": (
        "kinetics400",
        {CSV: KINETICS + "petting animal, not cat,abcdefghijk,0,10,train\n"},
        "{root}/train.csv, line 2: more fields than columns; put what holds a comma in quotes",
    ),
    "nothing there": (
        "kinetics400",
        {CSV: KINETICS + "abseiling,abcdefghijk,0,10,train\n"},
        "kinetics400: none of the 1 listed videos such as abcdefghijk_000000_000010 is in the folder",
    ),
    "v2 json": (
        "something_something_v2",
        {"something-something-v2-train.json": '[{"id": "1"}]'},
        "{root}/something-something-v2-train.json is not a JSON list of {{id, label, template}}: 'template'",
    ),
    "v2 class": (
        "something_something_v2",
        {"train.json": json.dumps([something("5", "", "Twistin [something]")])},
        "{root}/train.json, video 5: 'Twistin something' is no class; did you mean 'Twisting something'?",
    ),
    "jester line": (
        "jester",
        {"jester-v1-train.csv": "12,Thumb Up\n"},
        "{root}/jester-v1-train.csv, line 1: '12,Thumb Up' is not a number and a class with ; between",
    ),
    "sports label": (
        "sports1m",
        {"train_partition.txt": "https://www.youtube.com/watch?v=UDqivjS-lpI 487\n"},
        "{root}/train_partition.txt, line 1: 'https://www.youtube.com/watch?v=UDqivjS-lpI 487' is not a YouTube URL",
    ),
    "charades action": (
        "charades",
        {"Charades_v1_train.csv": CHARADES + "46GP8,,,,,,,,,c157 1.0 2.0,3\n"},
        "{root}/Charades_v1_train.csv, line 2: action 'c157 1.0 2.0' is not of the form c092 11.90 21.20 with a class",
    ),
    "charades time": (
        "charades",
        {"Charades_v1_train.csv": CHARADES + "46GP8,,,,,,,,,c001 1.0.0 2.0,3\n"},
        "{root}/Charades_v1_train.csv, line 2: action 'c001 1.0.0 2.0' is not of the form",
    ),
    "diving label": (
        "diving48",
        {"Diving48_V2_train.json": '[{"vid_name": "x", "label": 48}]'},
        "{root}/Diving48_V2_train.json, video x: 48 is no label from 0 to 47",
    ),
    "diving json": (
        "diving48",
        {"Diving48_V2_train.json": "[1]"},
        "{root}/Diving48_V2_train.json is not a JSON list of {{vid_name, label}}: 'int' object is not subscriptable",
    ),
    "ut name": (
        "ut_interaction",
        {"set1/0_1_6.avi": ""},
        "{root}/set1/0_1_6.avi is not named as in UT-Interaction's segmented sets: 0_1_4.avi, class 0 to 5 last",
    ),
    "ut sequence": (
        "ut_interaction",
        {"set1/0_21_5.avi": ""},
        "{root}/set1/0_21_5.avi: there is no sequence 21; set 1 has 1 to 10, set 2 has 11 to 20",
    ),
    "ut nothing": (
        "ut_interaction",
        {},
        "ut_interaction: no videos named like set1/0_1_4.avi in {root}: get them from",
    ),
    "empty folder": ("folder", {}, "{root} has no videos in class folders"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_gets_one_sentence(put, tmp_path, case):
    dataset, files, sentence = WRONG[case]
    put(files)
    with pytest.raises(ValueError) as caught:
        builders.listing(dataset, tmp_path)
    message = str(caught.value)
    assert message.startswith(sentence.format(root=tmp_path))
    assert "\n" not in message


def test_a_folder_that_is_none_and_a_list_that_is_none(tmp_path):
    with pytest.raises(
        ValueError, match=f"^jester: {tmp_path}/x is not a folder: name the one with the annotation files"
    ):
        builders.listing("jester", tmp_path / "x")
    with pytest.raises(ValueError, match="^no label list 'ucf'; there are charades, diving48, hmdb51, "):
        builders.labels("ucf")


def test_text_in_latin_1_is_refused_with_its_name(tmp_path):
    (tmp_path / "jester-v1-train.csv").write_bytes(b"1;Caf\xe9\n")
    with pytest.raises(ValueError, match=f"^{tmp_path}/jester-v1-train.csv is not text in UTF-8: "):
        builders.listing("jester", tmp_path)


def test_listings_do_without_tensorflow_datasets():
    code = "import sys; from vidjax.data import builders; sys.exit('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
