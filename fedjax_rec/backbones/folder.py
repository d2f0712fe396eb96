"""What a Hugging Face or sentence-transformers folder says about its model."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from fedjax_rec.backbones.bert import ACTIVATIONS, BertConfig
from fedjax_rec.backbones.pooling import DENSE_ACTIVATIONS, MODES, Head
from fedjax_rec.storage.errors import FileError

# RoBERTa is BERT whose positions count from `pad_token_id + 1`.
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
    """A folder that was read as far as its small files go.

    Attributes:
        path: the folder.
        model: where `config.json` and `model.safetensors` lie: `path`, or a folder
            inside it.
        config: shapes and function of the encoder.
        first_position: row of the checkpoint's position table for a text's first
            token.
        head: pooling and what follows.
        dense: the folders of the head's dense layers, in order.
        max_tokens: longest text, special tokens included.
        lower: whether texts are lower-cased before the tokenizer sees them.
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
        FileError: one is missing, or describes what is not supported.
    """
    if not path.is_dir():
        raise FileError(
            "there is no such folder",
            file=path,
            fix="Pass a folder with config.json, model.safetensors and tokenizer.json",
        )
    modules = path / "modules.json"
    transformer, head, dense = path, Head(), ()
    if modules.is_file():
        transformer, head, dense = _modules(modules)
    config, first_position = _config(transformer / "config.json")
    limits = transformer / "sentence_bert_config.json"
    limit = read_json(limits) if limits.is_file() else {}
    wanted = limit.get("max_seq_length") or config.max_positions
    return Folder(
        path=path,
        model=transformer,
        config=config,
        first_position=first_position,
        head=head,
        dense=dense,
        max_tokens=min(wanted, config.max_positions),
        lower=bool(limit.get("do_lower_case")),
    )


def require(path: Path, fix: str) -> Path:
    """`path`, where there is such a file.

    Raises:
        FileError: there is none.
    """
    if not path.is_file():
        raise FileError("there is no such file", file=path, fix=fix)
    return path


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        FileError: it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(
            f"cannot be read as JSON ({error})", file=path, fix="Fetch it again"
        ) from error


def _config(path: Path) -> tuple[BertConfig, int]:
    """The encoder's configuration, and the row of the first position."""
    fix = "A checkpoint saved by transformers' save_pretrained has it"
    found = read_json(require(path, fix))
    family = found.get("model_type")
    if family not in FAMILIES:
        raise FileError(
            f"model_type {family!r}",
            file=path,
            expected=" or ".join(FAMILIES),
            fix="Choose another checkpoint, or write its functions (docs/backbones.md)",
        )
    # Written by some versions of transformers as null, where they mean the default.
    places = found.get("position_embedding_type") or "absolute"
    if places != "absolute":
        raise FileError(
            f"position_embedding_type {places!r}", file=path, expected="'absolute'"
        )
    activation = found.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise FileError(
            f"hidden_act {activation!r}", file=path, expected=" or ".join(ACTIVATIONS)
        )
    values: dict[str, Any] = {}
    for field, name in _FIELDS.items():
        value = found.get(name)
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
    first = 0 if family == "bert" else found.get("pad_token_id", 1) + 1
    values["max_positions"] -= first
    return BertConfig(**values, activation=activation), first


def _modules(path: Path) -> tuple[Path, Head, tuple[Path, ...]]:
    """Transformer, pooling, then dense layers and normalisation in any order."""
    modules = read_json(path)
    kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    places = [path.parent / module.get("path", "") for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise FileError(
            " then ".join(kinds) or "nothing",
            file=path,
            expected="Transformer then Pooling first",
        )
    pooling = _pooling(places[1] / "config.json")
    steps, dense = [], []
    for kind, place in zip(kinds[2:], places[2:], strict=True):
        if kind == "Normalize":
            steps.append("normalize")
        elif kind == "Dense":
            steps.append(_dense(place / "config.json"))
            dense.append(place)
        else:
            raise FileError(f"module {kind}", file=path, expected="Dense or Normalize")
    return places[0], Head(pooling, tuple(steps)), tuple(dense)


def _pooling(path: Path) -> str:
    config = read_json(require(path, "Fetch the whole folder"))
    if "pooling_mode" in config:
        mode = config["pooling_mode"]
        chosen = list(mode) if isinstance(mode, list | tuple) else [mode]
    else:
        named = [n for n in config if n.startswith("pooling_mode_") and config[n]]
        chosen = [_POOLING_FIELDS.get(name, name) for name in named]
    if len(chosen) != 1 or chosen[0] not in MODES:
        raise FileError(
            f"pooling {' with '.join(map(str, chosen)) or 'of no kind'}",
            file=path,
            expected=f"one of {', '.join(MODES)}",
        )
    return chosen[0]


def _dense(path: Path) -> str:
    config = read_json(require(path, "Fetch the whole folder"))
    activation = str(config.get("activation_function")).rsplit(".", 1)[-1]
    if activation not in DENSE_ACTIVATIONS:
        raise FileError(
            f"activation_function {activation}",
            file=path,
            expected=" or ".join(DENSE_ACTIVATIONS),
        )
    if config["in_features"] != config["out_features"]:
        raise FileError(
            f"a dense layer from {config['in_features']} to {config['out_features']}",
            file=path,
            expected="one that keeps the width",
        )
    return activation
