"""Texts to tokens, as a checkpoint's own tokenizer does it."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from fedjax_rec.backbones.folder import require
from fedjax_rec.storage.errors import FileError

FILE = "tokenizer.json"
_FIX = (
    "Made from a vocabulary by transformers: "
    "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
)


def load_tokenizer(
    path: Path, max_tokens: int, vocab_size: int, lower: bool = False
) -> Callable[[Iterable[str]], list[np.ndarray]]:
    """The function from texts to tokens.

    Args:
        path: of `tokenizer.json`.
        max_tokens: longer texts lose their end; the special tokens stay.
        vocab_size: of the model the tokens are for.
        lower: whether texts are lower-cased first.

    Returns:
        `(texts) -> list of [T] int32 arrays`.

    Raises:
        FileError: the file is missing or damaged, has tokens that the model does
            not know, or leaves no room between the special tokens.
    """
    require(path, _FIX)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises the base class itself
        raise FileError(
            f"is damaged ({error})", file=path, fix="Fetch it again"
        ) from error
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= vocab_size:
        raise FileError(
            f"a token numbered {largest}",
            file=path,
            expected=f"less than the model's vocab_size {vocab_size}",
            fix="Tokenizer and weights belong to different models",
        )
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    check_max_tokens(max_tokens, special + 1)
    # A file may bring a length of its own, and padding, which packing does better.
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)

    def tokenize(texts: Iterable[str]) -> list[np.ndarray]:
        texts = check_texts(texts)
        if lower:
            texts = [text.lower() for text in texts]
        return [np.asarray(e.ids, np.int32) for e in tokenizer.encode_batch(texts)]

    return tokenize


def check_max_tokens(max_tokens: int, least: int, most: int | None = None) -> None:
    """Refuses a limit that leaves no room, or that the model has no positions for.

    Raises:
        FileError: it does.
    """
    if max_tokens < least or (most is not None and max_tokens > most):
        room = f"at least {least}" + (f" and at most {most}" if most else "")
        raise FileError(f"max_tokens {max_tokens}", expected=room, file="backbone")


def check_texts(texts: Iterable[str]) -> list[str]:
    """`texts` as a list.

    Raises:
        FileError: it is one text, or one of them is none.
    """
    if isinstance(texts, str):
        raise FileError("one text", expected="a list of texts", file="tokenize")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise FileError(
                f"{text!r} at index {i}", expected="a text", file="tokenize"
            )
    return texts
