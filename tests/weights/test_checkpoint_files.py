"""Which files make a model, what is refused by name, and what a digest covers."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from lingshu.core.errors import ArtifactError
from lingshu.core.files import write_manifest
from lingshu.weights.checkpoint_files import (
    INDEX_FILE,
    open_checkpoint,
    read_config,
    without_code_requests,
)


def write_shard(path: Path, **values: bytes) -> None:
    """A safetensors file with one vector of bfloat16 per name."""
    header, offset = {}, 0
    for name, data in values.items():
        offsets = [offset, offset + len(data)]
        header[name] = {"dtype": "BF16", "shape": [len(data) // 2], "data_offsets": offsets}
        offset += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(values.values()))


def write_index(folder: Path, **weight_map: str) -> None:
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards with their index, a tokenizer and settings."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "tiny", "_attn_implementation": "sdpa"}')
    for name in ("tokenizer.json", "generation_config.json", "preprocessor_config.json"):
        (folder / name).write_text("{}")
    (folder / "README.md").write_text("about it")
    write_shard(folder / "model-00001-of-00002.safetensors", a=b"aa")
    write_shard(folder / "model-00002-of-00002.safetensors", b=b"bbbb")
    write_index(folder, a="model-00001-of-00002.safetensors", b="model-00002-of-00002.safetensors")
    return folder


def test_the_files_of_a_model_are_those_that_decide_its_answers(folder: Path) -> None:
    files = open_checkpoint(folder)
    assert "README.md" not in files.files and "config.json" in files.files
    assert [name[:11] for name in files.weights] == ["model-00001", "model-00002"]
    assert {name: at.shape for name, at in files.tensors.items()} == {"a": (1,), "b": (2,)}
    assert files.config == {"model_type": "tiny"} and files.notes == ()


def test_a_digest_is_of_the_content_of_every_file_that_is_read(folder: Path) -> None:
    digests = {open_checkpoint(folder).digest()}
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        (folder / name).write_text('{"model_type": "tiny", "x": 1}')
        digests.add(open_checkpoint(folder).digest())
    write_shard(folder / "model-00002-of-00002.safetensors", b=b"bbbc")
    digests.add(open_checkpoint(folder).digest())
    for name in ("chat_template.jinja", "chat_template.json", "qwen.tiktoken"):
        (folder / name).write_text("{}")
        digests.add(open_checkpoint(folder).digest())
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/x.jinja").write_text("x")
    last = open_checkpoint(folder).digest()
    assert len(digests | {last}) == 9
    for name in ("README.md", "training_args.bin", "modeling.py"):
        (folder / name).write_text("anything")
    write_manifest(folder)
    assert open_checkpoint(folder).digest() == last
    assert open_checkpoint(Path(shutil.copytree(folder, folder.parent / "b"))).digest() == last


def test_a_file_that_changes_between_opening_and_hashing_is_refused(folder: Path) -> None:
    files = open_checkpoint(folder)
    (folder / "config.json").write_text('{"model_type": "other"}')
    with pytest.raises(ArtifactError, match=r"config.json changed while the model was opened"):
        files.digest()


def without_single_file(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()


def adapter_alone(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')


def gguf_alone(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "Q4_K_M.gguf").write_bytes(b"GGUF")


def gguf_with_a_configuration(folder: Path) -> None:
    without_single_file(folder)
    (folder / "Q4_K_M.GGUF").write_bytes(b"GGUF")


def pickle_alone(folder: Path) -> None:
    without_single_file(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")


def a_missing_shard(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()


def shards_without_index(folder: Path) -> None:
    a_missing_shard(folder)
    (folder / INDEX_FILE).unlink()


def two_sets_of_weights(folder: Path) -> None:
    write_shard(folder / "model.safetensors", a=b"aa", b=b"bbbb")


def two_files_without_index(folder: Path) -> None:
    without_single_file(folder)
    for name in ("x", "y"):
        write_shard(folder / f"{name}.safetensors", **{name: b"xx"})


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")


def original_layout(folder: Path) -> None:
    config = {"model_type": "internvl_chat", "auto_map": {"AutoModel": "m.M"}}
    (folder / "config.json").write_text(json.dumps(config))


def tensor_in_two_shards(folder: Path) -> None:
    write_shard(folder / "model-00002-of-00002.safetensors", a=b"aa", b=b"bbbb")


def tensor_in_no_shard(folder: Path) -> None:
    write_index(folder, a="model-00001-of-00002.safetensors", c="model-00002-of-00002.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (adapter_alone, r"adapter of the base 'org/base'.*merge"),
        (gguf_alone, r"GGUF files \(Q4_K_M.gguf\).*safetensors"),
        (gguf_with_a_configuration, r"Q4_K_M.GGUF is GGUF"),
        (pickle_alone, r"pytorch_model.bin is pickled.*safetensors"),
        (a_missing_shard, r"names model-00002-of-00002.safetensors, which is missing"),
        (shards_without_index, r"holds 1 shards.*no model.safetensors.index.json"),
        (two_sets_of_weights, r"holds model.safetensors and an index of other files"),
        (two_files_without_index, r"holds 2 safetensors files.*ambiguous"),
        (no_tokenizer, r"has no tokenizer"),
        (original_layout, r"custom-code layout of InternVL; .*-hf, or `lingshu convert`"),
        (tensor_in_two_shards, r"holds tensor 'a' twice"),
        (tensor_in_no_shard, r"lacks 1 tensors that model.safetensors.index.json names.*'c'"),
    ],
)
def test_what_is_not_a_complete_model_is_named_with_a_way_out(
    folder: Path, change: Callable[[Path], None], message: str
) -> None:
    change(folder)
    with pytest.raises(ArtifactError, match=message) as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../other/model.safetensors", "is not a file of this folder"),
        ("/etc/passwd.safetensors", "is not a file of this folder"),
        ("a\\b.safetensors", "is not a file of this folder"),
        ("pytorch_model.bin", "is not a safetensors file"),
        (3, "no weight_map of file names"),
    ],
)
def test_an_index_names_safetensors_of_its_folder_only(
    folder: Path, name: object, message: str
) -> None:
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ArtifactError, match=message):
        open_checkpoint(folder)


def test_all_shards_are_a_model_without_their_index(folder: Path) -> None:
    (folder / INDEX_FILE).unlink()
    assert open_checkpoint(folder).tensors.keys() == {"a", "b"}


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_alongside_a_model_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("{}")
    with pytest.raises(ArtifactError, match=f"{name}.*alongside a whole model"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "name",
    ["chat_template.json", "chat_template.jinja", "processor_config.json", "added_tokens.json"],
)
def test_a_file_that_no_manifest_lists_is_refused_by_name(folder: Path, name: str) -> None:
    write_manifest(folder)
    (folder / name).write_text("{}")
    with pytest.raises(ArtifactError, match=f"{name} would change the model and is not in"):
        open_checkpoint(folder)


@pytest.mark.parametrize("kept", ["nothing", "no weights"])
def test_a_manifest_without_the_weights_proves_nothing(folder: Path, kept: str) -> None:
    files = write_manifest(folder)
    left = {n: i for n, i in files.items() if kept == "no weights" and "safetensors" not in n}
    (folder / "manifest.json").write_text(json.dumps({"files": left}))
    with pytest.raises(ArtifactError, match="does not list the weights"):
        open_checkpoint(folder)


def test_a_file_unlike_its_manifest_is_refused(folder: Path) -> None:
    write_manifest(folder)
    (folder / "tokenizer.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"tokenizer.json does not match its sha256"):
        open_checkpoint(folder).digest()


def test_keys_that_ask_for_code_are_dropped_at_every_depth_and_named() -> None:
    settings = {
        "auto_map": {"AutoModel": "m.M"},
        "text_config": {"auto_map": {}, "_attn_implementation": "org/kernel", "n": 1},
        "layers": [{"custom_generate": "org/x"}, {"attn_implementation": "eager"}],
        "_experts_implementation_internal": "grouped_mm",
        "attn": "kept",
    }
    cleaned, requests = without_code_requests(settings)
    assert cleaned == {"text_config": {"n": 1}, "layers": [{}, {}], "attn": "kept"}
    assert requests == [
        "auto_map",
        "text_config._attn_implementation",
        "layers[0].custom_generate",
    ]


@pytest.mark.parametrize(
    "config",
    [
        {"auto_map": {"AutoModel": "m.M"}},
        {"vision_config": {"auto_map": {"AutoConfig": "org/repo--m.M"}}},
        {"text_config": {"_attn_implementation": "org/kernel@main:fn"}},
        {"attn_implementation": {"": "flash|org/kernel"}},
        {"transformers_weights": "other.safetensors"},
    ],
)
def test_a_configuration_that_asks_for_code_is_refused(folder: Path, config: dict) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=r"asks to run code \(.*in config.json\)"):
        read_config(folder)


def test_other_settings_that_ask_for_code_are_read_without_it(folder: Path) -> None:
    settings = {"custom_generate": "org/x", "eos_token_id": 1}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    files = open_checkpoint(folder)
    assert files.settings("generation_config.json") == {"eos_token_id": 1}
    assert files.notes == (
        "generation_config.json asks for code (custom_generate), which is not run",
    )


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", INDEX_FILE])
def test_damaged_settings_are_one_line(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ArtifactError) as caught:
        open_checkpoint(folder)
    assert name in str(caught.value) and "\n" not in str(caught.value)
