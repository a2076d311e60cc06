"""Captions as numbers: any tokenizer that Hugging Face's `tokenizers` reads from one `tokenizer.json`, no network.

The file says all there is to say about words, special tokens and padding (CLIP, BERT, T5, GPT-2 and most others have
one), so that ids are those a published text encoder was trained with.
"""

import functools
import os

import numpy as np

INSTALL = "captions need the package tokenizers, which is not installed: pip install 'vidjax[text]'"
PADS = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>")  # where the file does not say what it pads with


def load(file, length):
    """The tokenizer of a `tokenizer.json`, set to give `length` tokens: longer texts are cut, special tokens kept.

    It is loaded once in a process for as long as the file stays as it is, and not changed after, so that threads can
    share it. ValueError.
    """
    try:
        stat = os.stat(file)
    except OSError as error:
        raise ValueError(f"{file}: there is no tokenizer ({error.strerror}); name a tokenizer.json") from error
    return _load(os.fspath(file), length, stat.st_mtime_ns, stat.st_size)


def encode(tokenizer, texts):
    """Tokens of texts by a tokenizer of `load`: -> {ids int32 (N, length), mask float32 (N, length)}.

    The mask is 1 on tokens, special ones too, and 0 on the padding, which is on the right unless the file says left.
    """
    found = [tokenizer.encode(text.encode(errors="replace").decode()) for text in texts]
    shape = len(texts), tokenizer.padding["length"]
    ids, mask = [row.ids for row in found], [row.attention_mask for row in found]
    return {"ids": np.array(ids, np.int32).reshape(shape), "mask": np.array(mask, np.float32).reshape(shape)}


def clip(record, *, tokenizer, length=32, key="caption"):
    """A record's caption, the first where it has several: -> (ids int32 (length,), mask float32 (length,)).

    Without one, or with an empty one, both are all 0.
    """
    caption = record.get(key)
    if caption is not None and not isinstance(caption, str | bytes):
        caption = next(iter(caption), None)
    if isinstance(caption, bytes):
        caption = caption.decode(errors="replace")
    if not (caption and caption.strip()):
        return np.zeros(length, np.int32), np.zeros(length, np.float32)
    rows = encode(load(tokenizer, length), [caption])
    return rows["ids"][0], rows["mask"][0]


def shape(*, length=32, tokenizer="", key="caption"):
    """The shape of `clip`'s ids, and of its mask."""
    if length < 1:
        raise ValueError(f"text.length must be at least 1, not {length}")
    return (length,)


@functools.lru_cache(maxsize=8)
def _load(file, length, mtime_ns, size):
    try:
        import tokenizers  # an optional dependency
    except ImportError as error:
        raise ValueError(INSTALL) from error
    try:
        tokenizer = tokenizers.Tokenizer.from_file(file)
    except Exception as error:  # tokenizers raises nothing more special
        raise ValueError(f"{file}: this is no tokenizer.json that `tokenizers` can read ({error})") from error
    special = tokenizer.num_special_tokens_to_add(False)
    if length <= special:
        raise ValueError(f"text.length must be more than {special}, the special tokens that {file} adds, not {length}")
    padding = tokenizer.padding
    if padding is None:
        pad = next((token for token in PADS if tokenizer.token_to_id(token) is not None), None)
        padding = {"pad_id": tokenizer.token_to_id(pad), "pad_token": pad} if pad else {"pad_id": 0}
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(**padding | {"length": length, "pad_to_multiple_of": None})
    return tokenizer
