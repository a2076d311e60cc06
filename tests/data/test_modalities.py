"""Every modality through the whole pipeline: the same batches from any process, worker and step; honest masks."""

import pathlib

import jax
import numpy as np
import pytest
import tiny

from vidjax import data, inputs
from vidjax.data import flow, flow_store, modalities, video

FLOW = {"modalities": ("flow",), "clip": {"sampler": "random_clip", "size": 3, "stride": 1}}
SECTIONS = {
    "yuv420": {"pixels": "yuv420"},
    "repeats": {"repeats": 2},
    "balanced": {"order": "balanced"},
    "buckets": {"clip": {"sampler": "full", "size": 12, "stride": 1}, "buckets": (8, 9, 12), "batch_size": 4},
    "online": FLOW | {"flow": {"method": "farneback", "stack": 2, "form": "trajectory"}},
    "bidirectional": FLOW | {"flow": {"stack": 2, "form": "bidirectional"}},
    "magnitude": FLOW | {"flow": {"magnitude": True, "subtract": "median"}},
    "camera": FLOW | {"flow": {"subtract": "camera"}, "modalities": ("rgb", "flow")},
    "device": FLOW | {"flow": {"source": "device", "method": "farneback", "stack": 2}},
    "difference": FLOW | {"modalities": ("difference",)},
    "audio": {"modalities": ("rgb", "audio"), "audio": {"frames": 16, "bands": 8}},
    "sound": {"modalities": ("audio",), "audio": {"kind": "vggish"}},
    "depth": {"modalities": ("rgb", "depth"), "streams": {"depth": {"pattern": "{stem}.depth.npy", "high": 1.0}}},
}


def test_captions_become_tokens_and_their_masks(videos, tmp_path):
    import tokenizers

    words = ["[PAD]", "[UNK]", "it", "goes", "left", "right"]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    files = sorted(videos.glob("train/*/*.mp4"))
    lines = [f"{file},{file.parent.name},{'' if i % 2 else 'it goes left'},train" for i, file in enumerate(files)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,caption,split", *lines]) + "\n")
    cfg = section(videos, "rgb")
    cfg.data.update({"source": "csv", "path": str(tmp_path / "list.csv"), "modalities": ("rgb", "text")})
    cfg.data.text = {"tokenizer": str(tmp_path / "tokenizer.json"), "length": 5}
    source = data.source(cfg.data, "train")
    batch = tiny.batches(cfg, source, 1)[0]
    for i, ids, mask in zip(batch["index"], batch["inputs"]["text"], batch["inputs"]["text_mask"], strict=True):
        said = bool(source[int(i)]["caption"])
        assert ids.tolist() == ([2, 3, 4, 0, 0] if said else [0] * 5)
        assert mask.tolist() == ([1, 1, 1, 0, 0] if said else [0] * 5)


def test_a_wrong_path_is_an_error_before_the_first_clip(videos, tmp_path):
    cfg = section(videos, "rgb")
    cfg.data.update({"modalities": ("flow",), "flow": {"source": "stored", "path": str(tmp_path)}})
    with pytest.raises(ValueError, match="is no stored flow: it has no flow.json"):
        data.open_sources(cfg.data)
    cfg.data.update({"modalities": ("text",), "text": {"tokenizer": str(tmp_path / "none.json")}})
    with pytest.raises(ValueError, match=r"none\.json"):
        data.open_sources(cfg.data)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Motion videos of 8 to 10 frames; one in two has a depth map beside it."""
    folder = tiny.render(tmp_path_factory.mktemp("videos"))
    for file in sorted(folder.rglob("*.mp4"))[::2]:
        frames = video.read(file, range(video.probe(file)["num_frames"]))
        np.save(file.with_name(f"{file.stem}.depth.npy"), frames[..., 0].astype(np.float32) / 255)
    return folder


def section(videos, name):
    cfg = tiny.make_config(videos)
    cfg.data.update({"batch_size": 8} | SECTIONS.get(name, {}))
    cfg.data.augment.update({"size": 24, "color": 0.0})
    return cfg


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_batches_are_a_function_of_seed_and_step_alone(videos, name):
    cfg = section(videos, name)
    source = data.source(cfg.data, "train")
    whole = tiny.batches(cfg, source, 4)
    shapes = modalities.shapes(data.options(cfg.data), cfg.data.clip.size, 24)
    if name != "buckets":
        assert {key: x.shape[1:] for key, x in whole[0]["inputs"].items()} == {k: s for k, (s, _) in shapes.items()}
        assert {key: str(x.dtype) for key, x in whole[0]["inputs"].items()} == {k: t for k, (_, t) in shapes.items()}
    assert all(batch["mask"].all() for batch in whole)
    tiny.assert_equal(whole[2:], tiny.batches(cfg, source, 2, step=2))
    parts = [tiny.batches(cfg, source, 4, block=i, blocks=2) for i in range(2)]
    for batch, *rows in zip(whole, *parts, strict=True):
        tiny.assert_equal(batch, jax.tree.map(lambda *x: np.concatenate(x), *rows))


@pytest.mark.parametrize("name", ["online", "repeats"])
def test_workers_change_nothing(videos, name):
    cfg = section(videos, name)
    source = data.source(cfg.data, "train")
    whole = tiny.batches(cfg, source, 3)
    for workers in (1, 2):
        cfg.data.workers = workers
        tiny.assert_equal(whole, tiny.batches(cfg, source, 3))


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_a_model_sees_what_its_example_says(videos, name):
    """Also: values are in range, and an evaluation's views have the same form as training's clips."""
    cfg = section(videos, name)
    ready = inputs.preparer(data.options(cfg.data))
    batch = tiny.batches(cfg, data.source(cfg.data, "train"), 1)[0]
    seen = jax.jit(ready)(batch["inputs"])
    options = data.options(cfg.data)
    frames = cfg.data.clip.size if name != "buckets" else batch["inputs"]["rgb"].shape[1]
    example = inputs.example(options, frames, 24, batch=len(batch["mask"]))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), seen) == jax.tree.map(lambda x: (x.shape, x.dtype), example)
    low = -1 if {"flow", "difference"} & set(options["modalities"]) else 0
    pictures = [x for x in jax.tree.leaves(seen) if x.ndim == 5]
    assert all(low <= x.min() and x.max() <= 1 for x in pictures)
    cfg.eval.update({"clips": 2, "crops": 3, "batch_size": 4})
    views = next(iter(data.evaluation(cfg.data, cfg.eval, data.source(cfg.data, "eval"))))
    assert views["view_mask"].shape == (4, 6)
    assert {key: x.shape[2:] for key, x in views["inputs"].items()} == {
        key: shape for key, (shape, _) in modalities.shapes(options, cfg.data.clip.size, 24).items()
    }


def test_repeats_are_clips_of_the_same_video_decoded_once(videos, monkeypatch):
    cfg = section(videos, "repeats")
    cfg.data.threads = 1
    source, calls = data.source(cfg.data, "train"), []
    read = video.read
    monkeypatch.setattr(video, "read", lambda *words, **more: calls.append(words) or read(*words, **more))
    batch = tiny.batches(cfg, source, 1)[0]
    index = batch["index"].reshape(-1, 2)
    assert (index[:, 0] == index[:, 1]).all()
    assert len(set(index[:, 0])) == 4
    rgb = batch["inputs"]["rgb"]
    assert all((rgb[i] != rgb[i + 1]).any() for i in range(0, 8, 2))
    paths = [words[0] for words in calls]
    assert len(paths) == len(set(paths))


def test_buckets_pad_to_the_batchs_length_and_mask_it(videos):
    cfg = section(videos, "buckets")
    source = data.source(cfg.data, "train")
    lengths = set()
    for batch in tiny.batches(cfg, source, 10):
        rgb, mask = batch["inputs"]["rgb"], batch["inputs"]["frame_mask"]
        lengths.add(rgb.shape[1])
        for i, row in zip(batch["index"], mask, strict=True):
            assert row.sum() == min(source[int(i)]["num_frames"], rgb.shape[1])
            assert (np.diff(row) <= 0).all()
    assert lengths <= {8, 9, 12}
    assert len(lengths) > 1


def test_balanced_order_sees_every_class_as_often(videos):
    cfg = section(videos, "balanced")
    source = data.source(cfg.data, "train")
    keep = [row for row in source.rows if row["label"] or row["id"].endswith("0.mp4")]
    source = type(source)(tuple(keep), source.classes, source.name)
    labels = np.concatenate([source_labels(source, batch) for batch in tiny.batches(cfg, source, 8)])
    assert np.bincount(labels, minlength=8).min() == np.bincount(labels, minlength=8).max() == 8


def source_labels(source, batch):
    return [source[int(i)]["label"] for i in batch["index"]]


def test_missing_depth_is_masked_not_faked(videos):
    cfg = section(videos, "depth")
    source = data.source(cfg.data, "train")
    for batch in tiny.batches(cfg, source, 3):
        for i, depth, there in zip(
            batch["index"], batch["inputs"]["depth"], batch["inputs"]["depth_mask"], strict=True
        ):
            assert there == pathlib.Path(source[int(i)]["path"]).with_suffix(".depth.npy").exists()
            assert depth.any() == bool(there)


def test_depth_is_cropped_and_flipped_with_the_pixels(videos):
    cfg = section(videos, "depth")
    source = data.source(cfg.data, "train")
    seen = 0
    for batch in tiny.batches(cfg, source, 2):
        rgb, depth = (batch["inputs"][key].astype(int) for key in ("rgb", "depth"))
        for picture, maps, there in zip(rgb, depth, batch["inputs"]["depth_mask"], strict=True):
            if there:
                assert abs(picture[..., :1] - maps).max() <= 2  # the map is the red channel: rounding alone differs
                seen += 1
    assert seen


def test_stored_online_and_device_flow_look_alike(videos, tmp_path):
    """One clip, uncropped, by every source of the same method: equal to a quantum where nothing is resized."""
    cfg = section(videos, "online")
    source = data.source(cfg.data, "train")
    flow_store.build([source[i] for i in range(len(source))], tmp_path, flow.estimator("farneback"))
    cfg.data.flow = {"method": "farneback", "stack": 2, "path": str(tmp_path)}
    cfg.data.augment = {"size": 32, "crop": "center", "flip": 1.0}
    seen = {}
    for name in ("online", "stored", "device"):
        cfg.data.flow.source = name
        (batch,) = tiny.batches(cfg, source, 1)
        seen[name] = np.asarray(jax.jit(inputs.preparer(data.options(cfg.data)))(batch["inputs"]))
        assert seen[name].shape == (8, 3, 32, 32, 4)
    # online flow is of the mirrored frames, stored flow is mirrored: Farneback's border differs by little
    inner = (slice(None), slice(None), slice(6, -6), slice(6, -6))
    scale = np.abs(seen["online"]).mean()
    assert np.abs(seen["online"][inner] - seen["stored"][inner]).mean() < 0.1 * scale
    assert np.abs(seen["online"][inner] - seen["device"][inner]).mean() < 0.1 * scale


def test_yuv_on_the_device_is_nearly_the_hosts_rgb(videos):
    cfg = section(videos, "rgb")
    source = data.source(cfg.data, "train")
    rgb = tiny.batches(cfg, source, 1)[0]["inputs"]["rgb"] / np.float32(255)
    cfg.data.pixels = "yuv420"
    wire = tiny.batches(cfg, source, 1)[0]["inputs"]
    assert wire["i420"].nbytes * 2 == rgb.size
    difference = np.abs(np.asarray(inputs.rgb_of_i420(wire["i420"])) - rgb)
    assert difference.mean() < 0.02  # the crop is resized before chroma is interpolated, not after


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"modalities": ("rgb", "sound")}, "there is no 'sound'"),
        ({"modalities": ()}, "modalities is empty"),
        ({"pixels": "hsv"}, "data.pixels must be one of rgb, yuv420"),
        ({"pixels": "yuv420", "modalities": ("rgb", "flow")}, "yuv420 is for rgb without"),
        ({"modalities": ("flow",), "flow": {"source": "stored"}}, "data.flow.path is empty"),
        ({"modalities": ("flow",), "flow": {"magnitude": True, "stack": 3}}, "needs data.flow.stack=1"),
        ({"modalities": ("flow",), "flow": {"form": "bidirectional", "stack": 3}}, "an even data.flow.stack"),
        ({"modalities": ("flow",), "flow": {"source": "device", "subtract": "camera"}}, "fitted on the host"),
        ({"flow": {"bounds": 3}}, "data.flow: no key 'bounds'; did you mean 'bound'"),
        ({"augment": {"size": 8, "colour": 0.2}}, "data.augment: no key 'colour'; did you mean 'color'"),
        ({"clip": {"sampler": "random_clip", "sizes": 8}}, "data.clip: no key 'sizes'; did you mean 'size'"),
        ({"clip": {"sampler": "random", "size": 8, "stride": 1}}, "data.clip.sampler must be one of random_clip"),
        ({"modalities": ("flow",), "flow": {"method": "tvl1"}}, "data.flow.method is one of dis, farneback"),
        ({"modalities": ("audio",), "audio": {"band": 3}}, "unexpected keyword argument 'band'"),
        ({"flow": {"bound": 0}}, "data.flow.bound above 0"),
        ({"order": "sorted"}, "data.order must be one of"),
        ({"buckets": (8,)}, "data.clip.sampler full"),
        ({"mixture": {"a": {}}, "order": "balanced"}, "data.mixture draws from its sets"),
        ({"repeat": 2}, "did you mean 'repeats'"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        data.options(changes)
