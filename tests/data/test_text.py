"""A tokenizer trained here on five sentences, so that every token is known."""

import concurrent.futures
import json
import pathlib
import pickle
import sys

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors, trainers

from vidjax.data import text

CORPUS = ["a man waves", "a man plays soccer", "two men wave", "a dog plays", "a woman waves at a dog"]
PAD, UNKNOWN, BEGIN, END = range(4)


@pytest.fixture
def file(tmp_path):
    """A byte-pair encoding as published ones are: [CLS] and [SEP] around each text."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], vocab_size=80)
    tokenizer.train_from_iterator(CORPUS, trainer)
    ends = [("[CLS]", BEGIN), ("[SEP]", END)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path / "tokenizer.json")


def words(file, *names):
    vocabulary = json.loads(pathlib.Path(file).read_text())["model"]["vocab"]
    return [vocabulary[name] for name in names]


def test_tokens_padding_and_cut_are_exact(file):
    rows = text.encode(text.load(file, 6), ["a man waves", "a woman waves at a dog", "", "Q"])
    a, man, waves, woman, at = words(file, "a", "man", "waves", "woman", "at")
    expected = [
        [BEGIN, a, man, waves, END, PAD],
        [BEGIN, a, woman, waves, at, END],
        [BEGIN, END, PAD, PAD, PAD, PAD],
        [BEGIN, UNKNOWN, END, PAD, PAD, PAD],
    ]
    assert rows["ids"].tolist() == expected
    assert rows["mask"].tolist() == [[1] * 5 + [0], [1] * 6, [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]
    assert (rows["ids"].dtype, rows["mask"].dtype) == (np.int32, np.float32)


def test_no_texts(file):
    rows = text.encode(text.load(file, 6), [])
    assert rows["ids"].shape == rows["mask"].shape == (0, 6)


def test_padding_is_the_files(file):
    tokenizer = tokenizers.Tokenizer.from_file(file)
    tokenizer.enable_padding(direction="left", pad_id=UNKNOWN, pad_token="[UNK]", length=99, pad_to_multiple_of=8)
    tokenizer.save(file)
    rows = text.encode(text.load(file, 5), ["a"])
    assert rows["ids"].tolist() == [[UNKNOWN, UNKNOWN, BEGIN, *words(file, "a"), END]]
    assert rows["mask"].tolist() == [[0, 0, 1, 1, 1]]


def test_a_tokenizer_travels_to_workers(file):
    tokenizer = pickle.loads(pickle.dumps(text.load(file, 6)))
    np.testing.assert_array_equal(text.encode(tokenizer, CORPUS)["ids"], text.encode(text.load(file, 6), CORPUS)["ids"])


def test_threads_share_it(file):
    expected = text.encode(text.load(file, 6), CORPUS)["ids"]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda i: text.encode(text.load(file, 6), [CORPUS[i % 5]])["ids"][0], range(200)))
    np.testing.assert_array_equal(rows, np.tile(expected, (40, 1)))


@pytest.mark.parametrize(
    "caption", ["a man waves", b"a man waves", ["a man waves", "a dog plays"], np.array(["a man waves"], object)]
)
def test_caption_of_a_record(file, caption):
    ids, mask = text.clip({"caption": caption, "label": 3}, tokenizer=file, length=6)
    assert ids.tolist() == [BEGIN, *words(file, "a", "man", "waves"), END, PAD]
    assert mask.tolist() == [1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("record", [{}, {"caption": ""}, {"caption": " \n"}, {"caption": []}, {"caption": None}])
def test_a_missing_caption_is_masked(record):
    ids, mask = text.clip(record, tokenizer="not opened", length=6)
    assert ids.tolist() == mask.tolist() == [0] * 6
    assert ids.shape == mask.shape == text.shape(tokenizer="not opened", length=6)
    assert (ids.dtype, mask.dtype) == (np.int32, np.float32)


def test_a_file_name_in_a_caption_is_no_error(file):
    ids, _ = text.clip({"words": "a \udce9"}, tokenizer=file, length=6, key="words")
    assert ids.tolist() == [BEGIN, *words(file, "a"), UNKNOWN, END, PAD, PAD]


def test_what_cannot_be_is_one_sentence(file, tmp_path, monkeypatch):
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    with pytest.raises(ValueError, match=r"bad\.json: this is no tokenizer\.json"):
        text.load(bad, 6)
    with pytest.raises(ValueError, match=r"none\.json: there is no tokenizer \(No such file"):
        text.load(tmp_path / "none.json", 6)
    with pytest.raises(ValueError, match=r"text\.length must be more than 2, the special tokens"):
        text.load(file, 2)
    with pytest.raises(ValueError, match=r"text\.length must be at least 1, not 0"):
        text.shape(length=0)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"pip install 'vidjax\[text\]'"):
        text.load(file, 7)


def test_a_changed_file_is_read_anew(file):
    before = text.encode(text.load(file, 6), ["a"])["ids"][0, 1]
    content = json.loads(pathlib.Path(file).read_text())
    names = content["model"]["vocab"]
    other = next(name for name in names if len(name) == 1 and name != "a")
    names["a"], names[other] = names[other], names["a"]
    with open(file, "w") as out:
        json.dump(content, out, indent=1)
    assert text.encode(text.load(file, 6), ["a"])["ids"][0, 1] == names["a"] != before
