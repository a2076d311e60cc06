"""The notebooks that train longest, executed from top to bottom in their smoke form."""

import re

import notebooks


def test_it_fine_tunes(tmp_path):
    sizes = {"STEPS": 2, "EVERY": 1, "START_STEPS": 2, "START_BATCH": 4, "START_VIDEOS": 32, "START_HELD_OUT": 16}
    sizes |= {"VIDEOS": 16, "HELD_OUT": 8, "WAYS": ("linear",)}
    printed, pictures = notebooks.execute("finetune_on_your_folder", tmp_path, **sizes)
    assert "the start: " in printed
    assert printed.count("red_left") >= 4  # of the last cell
    assert pictures == 5


def test_it_shows_flow_and_two_streams(tmp_path):
    sizes = {"TRAIN": 48, "EVALUATION": 24, "SPATIAL_STEPS": 2, "TEMPORAL_STEPS": 2, "BATCH": 4, "SHOWN": "right/00001"}
    printed, pictures = notebooks.execute("flow_and_two_streams", tmp_path, **sizes)
    assert "eval/right/00001.mp4: right over noise; " in printed
    assert pictures == 3


def test_it_shows_learned_flow(tmp_path):
    sizes = {"FLOW_STEPS": 2, "CLASS_STEPS": 2, "BATCH": 4, "TRAIN": 32, "EVALUATION": 16, "SHOWN": ("right/00001",)}
    printed, pictures = notebooks.execute("hidden_two_stream_flow", tmp_path, **sizes)
    assert "held-out videos" in printed
    assert pictures == 2


def test_it_streams(tmp_path):
    sizes = {"STEPS": 2, "BATCH": 4, "TRAIN": 32, "EVALUATION": 16, "LENGTH": 6, "CHECKED": (3, 8), "TIMED": 20}
    printed, pictures = notebooks.execute("streaming_and_latency", tmp_path, **sizes)
    assert float(re.search(r"largest difference between stream and clip: (\S+)", printed)[1]) < 1e-5  # other sums
    assert pictures == 4
