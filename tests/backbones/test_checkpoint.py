"""Folders that load, their weights and vectors, and errors about the others."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from fedjax_rec.backbones import load_backbone
from fedjax_rec.backbones.checkpoint import load
from fedjax_rec.storage.errors import FileError

MEAN = ("Pooling", {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 16})
CLS = ("Pooling", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
TEXTS = ["red shoes", "a garden chair for men", ""]


def same(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def refused(folder, **options):
    with pytest.raises(FileError) as caught:
        load(folder, **options)
    return str(caught.value)


def test_a_plain_bert_is_pooled_by_the_mean_and_not_normalized(write, vectors):
    backbone, weights = load(write())
    assert backbone.name == "model"
    assert (backbone.num_layers, backbone.width, backbone.max_tokens) == (3, 16, 20)
    assert set(weights) == {"embeddings", "layers", "head"}
    assert {leaf.shape[0] for leaf in jax.tree.leaves(weights["layers"])} == {3}
    lengths = np.linalg.norm(vectors(backbone, weights, TEXTS), axis=-1)
    assert np.abs(lengths - 1).min() > 0.1


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_names_with_and_without_a_prefix(write, prefix):
    plain = load(write(name="plain"))
    named = load(write(prefix=prefix, name="named"))
    assert same(plain[1], named[1])
    assert plain[0].fingerprint == named[0].fingerprint


def test_names_that_tensorflow_gave(write, tensors_of):
    config = json.loads((write() / "config.json").read_text())
    renamed = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v
        for name, v in tensors_of(config).items()
    }
    assert same(load(write())[1], load(write(tensors=renamed, name="old"))[1])


def test_half_precision_files_load(write, tensors_of):
    config = json.loads((write() / "config.json").read_text())
    half = {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors_of(config).items()}
    _, weights = load(write(tensors=half, name="half"))
    assert {leaf.dtype for leaf in jax.tree.leaves(weights)} == {jnp.dtype("float32")}
    _, short = load(write(name="whole"), dtype="bfloat16")
    assert same(weights, short)


def test_roberta_counts_positions_from_after_the_padding(write, tensors_of):
    config = {"model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1}
    folder = write(config=config, prefix="roberta.")
    backbone, weights = load(folder)
    assert backbone.max_tokens == 18
    full = tensors_of(json.loads((folder / "config.json").read_text()))
    table = full["embeddings.position_embeddings.weight"]
    np.testing.assert_array_equal(weights["embeddings"]["position"], table[2:])


def test_modules_decide_pooling_and_what_follows(write, vectors):
    plain = vectors(*load(write()), TEXTS)
    unit = vectors(*load(write(modules=[MEAN, ("Normalize", {})], name="unit")), TEXTS)
    expected = plain / np.linalg.norm(plain, axis=-1, keepdims=True)
    np.testing.assert_allclose(unit, expected, rtol=0, atol=1e-6)
    first = vectors(*load(write(modules=[CLS], name="cls")), TEXTS)
    assert np.abs(first - plain).max() > 0.1
    newer = ("Pooling", {"embedding_dimension": 16, "pooling_mode": "cls"})
    named = vectors(*load(write(modules=[newer], name="newer")), TEXTS)
    np.testing.assert_array_equal(first, named)


def test_a_dense_layer_follows_the_pooling(write, vectors):
    plain = vectors(*load(write()), TEXTS)
    told = {"in_features": 16, "out_features": 16, "bias": True}
    told["activation_function"] = "torch.nn.modules.activation.Tanh"
    folder = write(modules=[MEAN, ("Dense", told)], name="dense")
    random = np.random.default_rng(1)
    matrix = random.normal(size=(16, 16)).astype(np.float32) / 8
    bias = random.normal(size=16).astype(np.float32)
    file = folder / "2_Dense" / "model.safetensors"
    save_file({"linear.weight": matrix, "linear.bias": bias}, file)
    found = vectors(*load(folder), TEXTS)
    np.testing.assert_allclose(found, np.tanh(plain @ matrix.T + bias), atol=1e-5)
    told["out_features"] = 8
    (folder / "2_Dense" / "config.json").write_text(json.dumps(told))
    assert "dense layer from 16 to 8; expected equal widths" in refused(folder)


def test_tokens_are_cut_at_the_limit_and_keep_their_ends(write):
    folder = write(sentence_bert_config={"max_seq_length": 6})
    backbone, _ = load(folder)
    text = "red green blue shoes chair table garden"
    tokens = backbone.tokenize([text, "", "RED ?"])
    assert [t.tolist() for t in tokens] == [[2, 4, 5, 6, 7, 3], [2, 3], [2, 4, 1, 3]]
    assert {t.dtype for t in tokens} == {np.dtype(np.int32)}
    assert len(load(folder, max_tokens=20)[0].tokenize([text])[0]) == 9
    assert "max_tokens 21; expected at least" in refused(folder, max_tokens=21)
    assert "max_tokens 2; expected at least 3" in refused(folder, max_tokens=2)


def test_what_is_no_text_is_refused(write):
    backbone, _ = load(write())
    with pytest.raises(FileError, match="None at index 1; expected a string"):
        backbone.tokenize(["red", None])
    with pytest.raises(FileError, match="a single string; expected a list"):
        backbone.tokenize("red")


def test_the_fingerprint_is_of_content_and_of_what_decides_the_function(write):
    base = load(write())[0].fingerprint
    assert load(write(name="elsewhere"))[0].fingerprint == base
    changed = [
        load(write(), dtype="bfloat16"),
        load(write(), max_tokens=8),
        load(write(modules=[CLS], name="cls")),
        load(write(config={"layer_norm_eps": 1e-5}, name="eps")),
        load(write(config={"hidden_act": "relu"}, name="relu")),
    ]
    prints = [backbone.fingerprint for backbone, _ in changed]
    assert len({base, *prints}) == 6


def test_one_changed_weight_or_tokenizer_changes_the_fingerprint(write, tensors_of):
    folder = write()
    base = load(folder)[0].fingerprint
    tensors = tensors_of(json.loads((folder / "config.json").read_text()))
    tensors["pooler.dense.bias"] += 1  # not read
    assert load(write(tensors=tensors, name="pooler"))[0].fingerprint == base
    tensors["encoder.layer.2.output.dense.bias"][3] += 1e-6
    assert load(write(tensors=tensors, name="bias"))[0].fingerprint != base
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"Lowercase"', '"NFC"'))
    assert load(folder)[0].fingerprint != base


@pytest.mark.parametrize(
    ("file", "advice"),
    [
        ("config.json", "save_pretrained has it"),
        ("model.safetensors", "pytorch_model.bin"),
        ("tokenizer.json", "AutoTokenizer"),
    ],
)
def test_a_missing_file_is_named_with_what_to_do(write, file, advice):
    folder = write()
    (folder / file).unlink()
    message = refused(folder)
    assert message.startswith(f"{folder / file}: no such file. ")
    assert advice in message


def test_a_missing_folder(tmp_path):
    assert "no such folder. Pass a folder with config.json" in refused(tmp_path / "no")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llama"}, "found model_type 'llama'; expected 'bert' or 'rob"),
        ({"model_type": None}, "found model_type None"),
        ({"hidden_act": "silu"}, "found hidden_act 'silu'; expected 'gelu' or 'gel"),
        (
            {"position_embedding_type": "relative_key"},
            "found position_embedding_type 'relative_key'; expected 'absolute'",
        ),
        ({"hidden_size": None}, "found hidden_size None; expected a positive number"),
        (
            {"num_attention_heads": 5},
            "found num_attention_heads 5; expected a divisor of hidden_size 16",
        ),
    ],
)
def test_an_architecture_that_is_not_supported_is_named(write, config, message):
    folder = write()
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    assert f"{path}: {message}" in refused(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"vocab_size": 25},
            "found tensor embeddings.word_embeddings.weight of shape [24, 16]; "
            "expected [25, 16]. config.json and the weights belong to different",
        ),
        ({"intermediate_size": 41}, "intermediate.dense.weight of shape [40, 16]; exp"),
        (
            {"num_hidden_layers": 4},
            "no tensor encoder.layer.3.attention.self.query.weight [16, 16]",
        ),
        ({"num_hidden_layers": 2}, "more layers than num_hidden_layers 2"),
    ],
)
def test_weights_of_another_model_are_told_by_name_and_shape(write, config, message):
    folder = write()
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    assert message in refused(folder)


def test_whole_numbers_are_no_weights(write, tensors_of):
    config = json.loads((write() / "config.json").read_text())
    tensors = tensors_of(config)
    name = "encoder.layer.0.output.dense.weight"
    tensors[name] = tensors[name].astype(np.int8)
    message = refused(write(tensors=tensors, name="int8"))
    assert f"tensor {name} of type int8; expected a floating-point type" in message


@pytest.mark.parametrize("keep", [0, 5, 200, -100])
def test_a_file_that_was_cut_short(write, keep):
    path = write() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert f"{path}: is truncated or damaged" in refused(path.parent)


def test_a_damaged_small_file(write):
    folder = write()
    (folder / "tokenizer.json").write_text('{"version": ')
    assert "tokenizer.json: is damaged" in refused(folder)
    (folder / "config.json").write_text("{")
    assert "config.json: cannot be read as JSON" in refused(folder)


def test_a_tokenizer_of_another_model(write):
    folder = write()
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"men":12', '"men":99').replace(
        '"men": 12', '"men": 99'))  # fmt: skip
    assert "token id 99; expected less than the model's vocab_size 24" in (
        refused(folder)
    )


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([], "found Transformer; expected Transformer then Pooling first"),
        (
            [("Pooling", {**MEAN[1], "pooling_mode_cls_token": True})],
            "found pooling 'mean and cls'; expected 'mean' or 'cls' or 'max'",
        ),
        (
            [("Pooling", {"pooling_mode_lasttoken": True})],
            "found pooling 'pooling_mode_lasttoken'",
        ),
        ([("Pooling", {})], "found pooling ''; expected"),
        ([MEAN, ("CNN", {})], "found module 'CNN'; expected 'Dense' or 'Normalize'"),
        (
            [MEAN, ("Dense", {"activation_function": "torch.nn.ReLU"})],
            "found activation_function 'ReLU'; expected 'Identity' or 'Tanh'",
        ),
    ],
)
def test_a_head_that_is_not_supported_is_named(write, modules, message):
    assert message in refused(write(modules=modules))


def test_an_unknown_dtype(write):
    assert "'float16'; expected float32 or bfloat16" in refused(
        write(), dtype="float16"
    )


def test_a_backbone_by_folder_and_by_unknown_name(write, tmp_path):
    folder = write()
    backbone, _ = load_backbone(folder)
    assert backbone.fingerprint == load(folder)[0].fingerprint
    assert load_backbone("tiny", max_tokens=9)[0].max_tokens == 9
    with pytest.raises(FileError, match="'nope'; expected tiny, minilm, a folder"):
        load_backbone("nope")
    with pytest.raises(FileError, match="Run: fedjax-rec backbone fetch minilm"):
        load_backbone("minilm", cache=tmp_path, download=False)


def test_the_hub_is_asked_only_for_what_loading_needs(write, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    folder, asked = write(), []

    def snapshot_download(name, **options):
        asked.append((name, options))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    backbone, _ = load_backbone("org/model-of-theirs")
    assert backbone.name == "org/model-of-theirs"
    assert asked[0][1]["allow_patterns"] == ["*.json", "*.safetensors"]


def test_a_hub_that_does_not_answer(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def snapshot_download(name, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    with pytest.raises(FileError, match=r"org/name: cannot be .*no route"):
        load_backbone("org/name")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("BertForMaskedLM", {"hidden_act": "relu", "layer_norm_eps": 1e-5}),
        ("BertModel", {"hidden_act": "gelu_new"}),
        ("RobertaModel", {"pad_token_id": 1, "type_vocab_size": 1}),
        ("XLMRobertaForMaskedLM", {"pad_token_id": 1, "type_vocab_size": 1}),
        ("CamembertModel", {"pad_token_id": 1}),
    ],
)
def test_transformers_computes_the_same_from_the_same_folder(
    write, place, model, options
):
    torch = pytest.importorskip("torch")
    kind = getattr(pytest.importorskip("transformers"), model)
    sizes = json.loads((write() / "config.json").read_text()) | options
    del sizes["model_type"]
    torch.manual_seed(0)
    theirs = kind(kind.config_class(**sizes, initializer_range=0.3)).eval()
    folder = write()
    theirs.save_pretrained(folder)  # next to a tokenizer that fits
    backbone, weights = load(folder)
    ids, layout = place([np.array([2, 4, 5, 6, 7, 3], np.int32)], [[0]], 6)
    hidden = backbone.embed(weights, ids, layout)
    found = backbone.run(weights["layers"], hidden, layout, None, None)
    with torch.no_grad():
        states = theirs(torch.tensor(np.asarray(ids)).long(), output_hidden_states=True)
    expected = states.hidden_states[-1].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
