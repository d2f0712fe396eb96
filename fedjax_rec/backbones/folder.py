"""Reading the small files of a Hugging Face or sentence-transformers folder."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedjax_rec.backbones.bert import BertConfig
from fedjax_rec.backbones.encoder import DENSE_ACTIVATIONS, MODES, Head
from fedjax_rec.backbones.nonlinear import ACTIVATIONS
from fedjax_rec.storage.errors import FileError

# RoBERTa is BERT with positions that count from `pad_token_id + 1`.
FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert")

_FIELDS = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "ffn_width": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "num_types": "type_vocab_size",
    "norm_eps": "layer_norm_eps",
}
_POOLING_FIELDS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder:
    """Contents of a checkpoint folder's small files.

    Attributes:
        path: the folder.
        model: folder of `config.json` and `model.safetensors`: `path`, or a folder
            inside it.
        config: shapes and activation of the encoder.
        first_position: row of the checkpoint's position table for a text's first
            token.
        head: pooling and what follows it.
        dense: folders of the head's dense layers, in order.
        max_tokens: longest text, special tokens included.
        lower: whether texts are converted to lower case before tokenization.
    """

    path: Path
    model: Path
    config: BertConfig
    first_position: int
    head: Head
    dense: tuple[Path, ...]
    max_tokens: int
    lower: bool


def read_folder(path: Path) -> Folder:
    """Reads the small files of a checkpoint folder.

    Raises:
        FileError: a file is missing, or describes an unsupported model.
    """
    if not path.is_dir():
        raise FileError(
            "no such folder",
            file=path,
            fix="Pass a folder with config.json, model.safetensors and tokenizer.json",
        )
    modules = path / "modules.json"
    transformer, head, dense = path, Head(), ()
    if modules.is_file():
        transformer, head, dense = _modules(modules)
    config, first_position = _config(transformer / "config.json")
    file = transformer / "sentence_bert_config.json"
    limits = read_json(file) if file.is_file() else {}
    longest = limits.get("max_seq_length") or config.max_positions
    return Folder(
        path=path,
        model=transformer,
        config=config,
        first_position=first_position,
        head=head,
        dense=dense,
        max_tokens=min(longest, config.max_positions),
        lower=bool(limits.get("do_lower_case")),
    )


def require(path: Path, fix: str = "Fetch the whole folder") -> Path:
    """Returns `path` if it is a file.

    Raises:
        FileError: it is not.
    """
    if not path.is_file():
        raise FileError("no such file", file=path, fix=fix)
    return path


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileError: the file is not valid JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(
            f"cannot be read as JSON ({error})", file=path, fix="Fetch it again"
        ) from error


def _supported(path: Path, name: str, value: Any, values: Iterable[Any], fix="") -> Any:
    """Returns `value` if it is one of `values`."""
    if value not in values:
        expected = " or ".join(map(repr, values))
        raise FileError(f"{name} {value!r}", file=path, expected=expected, fix=fix)
    return value


def _config(path: Path) -> tuple[BertConfig, int]:
    """Reads the encoder's configuration, and the row of the first position."""
    fix = "A checkpoint saved by transformers' save_pretrained has it"
    config = read_json(require(path, fix))
    another = "Choose another checkpoint, or write its functions (docs/backbones.md)"
    family = config.get("model_type")
    _supported(path, "model_type", family, FAMILIES, another)
    # Some versions of transformers write null for the default.
    positions = config.get("position_embedding_type") or "absolute"
    _supported(path, "position_embedding_type", positions, ("absolute",))
    activation = config.get("hidden_act", "gelu")
    _supported(path, "hidden_act", activation, ACTIVATIONS)
    values: dict[str, Any] = {}
    for field, name in _FIELDS.items():
        value = config.get(name)
        if not isinstance(value, int | float) or value <= 0:
            raise FileError(
                f"{name} {value!r}", file=path, expected="a positive number", fix=fix
            )
        values[field] = value
    if values["width"] % values["num_heads"]:
        raise FileError(
            f"num_attention_heads {values['num_heads']}",
            file=path,
            expected=f"a divisor of hidden_size {values['width']}",
        )
    first = 0 if family == "bert" else config.get("pad_token_id", 1) + 1
    values["max_positions"] -= first
    return BertConfig(**values, activation=activation), first


def _modules(path: Path) -> tuple[Path, Head, tuple[Path, ...]]:
    """Reads transformer and pooling, then dense layers and normalization."""
    modules = read_json(path)
    kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    folders = [path.parent / module.get("path", "") for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise FileError(
            " then ".join(kinds) or "no modules",
            file=path,
            expected="Transformer then Pooling first",
        )
    steps, dense = [], []
    for kind, folder in zip(kinds[2:], folders[2:], strict=True):
        if _supported(path, "module", kind, ("Dense", "Normalize")) == "Dense":
            steps.append(_dense(folder / "config.json"))
            dense.append(folder)
        else:
            steps.append("normalize")
    head = Head(_pooling(folders[1] / "config.json"), tuple(steps))
    return folders[0], head, tuple(dense)


def _pooling(path: Path) -> str:
    config = read_json(require(path))
    if "pooling_mode" in config:
        mode = config["pooling_mode"]
        modes = list(mode) if isinstance(mode, list | tuple) else [mode]
    else:
        chosen = [n for n in config if n.startswith("pooling_mode_") and config[n]]
        modes = [_POOLING_FIELDS.get(name, name) for name in chosen]
    return _supported(path, "pooling", " and ".join(map(str, modes)), MODES)


def _dense(path: Path) -> str:
    config = read_json(require(path))
    activation = str(config.get("activation_function")).rsplit(".", 1)[-1]
    _supported(path, "activation_function", activation, DENSE_ACTIVATIONS)
    if config["in_features"] != config["out_features"]:
        raise FileError(
            f"a dense layer from {config['in_features']} to {config['out_features']}",
            file=path,
            expected="equal widths",
        )
    return activation
