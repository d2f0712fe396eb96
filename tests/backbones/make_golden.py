"""Makes golden_minilm.npz with sentence-transformers, which runs PyTorch.

    python tests/backbones/make_golden.py FOLDER

in an environment of its own with `sentence-transformers`; FOLDER is where
`fedjax-rec backbone fetch minilm` put the checkpoint.
"""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

TEXTS = [
    "",
    " ",
    "\t\n  \r\n",
    "a",
    ".",
    "7",
    "Toy Story (1995)",
    "Animation|Children|Comedy",
    "Title: Heat (1995). Genres: Action, Crime, Thriller.",
    "Title: Heat. Genres: Crime.",
    "The Good, the Bad and the Ugly",
    "the good, the bad and the ugly",
    "  leading and trailing spaces   ",
    "UPPER lower MiXeD",
    "naïve café, façade, Zoë, Ångström, São Paulo",
    "naive cafe, facade, Zoe, Angstrom, Sao Paulo",
    "Straße über Öl; ŒUVRE, æther, İstanbul",
    "e\u0301 combining, and \u00e9 composed",
    "七人の侍",
    "千と千尋の神隠し (2001)",
    "기생충",
    "Броненосец Потёмкин",
    "العربية من اليمين إلى اليسار",
    "עברית",
    "हिन्दी फ़िल्म",
    "ภาพยนตร์ไทย",
    "Ελληνικά και ένα τόνο",
    "🎬🍿 movie night 👩‍👩‍👧‍👦 ❤️",
    "🙂",
    "mixed 漢字 and kana かな with latin",
    "C'est l'été; qu'est-ce que c'est?",
    "don't won't can't I'd've",
    "email: someone@example.org, https://example.org/path?q=1&r=2#top",
    "price: $1,299.99 (-15%) + 3×2 ≠ 7 ± 0.5 °C",
    "def f(x):\n    return {'a': [x ** 2 for x in range(10)]}",
    "SELECT * FROM items WHERE id IN (1, 2, 3) -- comment",
    '<html><body class="x">&amp;nbsp;</body></html>',
    "\\alpha + \\beta_{i}^{2} = \\frac{1}{2}",
    "!!!???...,,,;;;:::---___***",
    "(((((((((())))))))))",
    "[CLS] special [SEP] tokens [MASK] spelled out [PAD] [UNK]",
    "##ing ##ed pieces",
    "zero\u200bwidth and no\u00a0break and soft\u00adhyphen",
    "control \x01\x02\x7f characters and \ufffd",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "x" * 150,
    "Wireless noise-cancelling over-ear headphones, 30 h battery, black (2nd gen.)",
    "A long plot. " + "They drive through the desert and talk about the past. " * 20,
    "word " * 600,
    "漢" * 600,
]


def main() -> None:
    """Writes the file next to this one."""
    from sentence_transformers import (  # pyright: ignore[reportMissingImports]
        SentenceTransformer,
    )

    model = SentenceTransformer(sys.argv[1], device="cpu")
    tokens = [model.tokenize([text])["input_ids"][0].numpy() for text in TEXTS]
    vectors = [model.encode(text, convert_to_numpy=True) for text in TEXTS]
    names = ("sentence-transformers", "transformers", "tokenizers", "torch")
    versions = {name: version(name) for name in names}
    np.savez_compressed(
        Path(__file__).with_name("golden_minilm.npz"),
        texts=np.array(json.dumps(TEXTS)),
        versions=np.array(
            json.dumps({"python": platform.python_version(), **versions})
        ),
        lengths=np.array([len(row) for row in tokens], np.int32),
        tokens=np.concatenate(tokens).astype(np.int32),
        embeddings=np.stack(vectors).astype(np.float32),
    )


if __name__ == "__main__":
    main()
