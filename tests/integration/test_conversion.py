"""A real GGUF file, made here and tiny, becomes a model that transformers loads."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from safekv.engines.hf.store import (
    DEFAULT_MODEL,
    KNOWN_MODELS,
    ModelLibrary,
    ModelState,
    PackagedModel,
    Phase,
    Progress,
    check_checkpoint,
    resolve_model,
)
from safekv.errors import ModelError

WIDTH, HIDDEN, HEADS, LAYERS = 32, 64, 4, 1
BYTES = [chr(byte) for byte in range(33, 127)]
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *BYTES, "a" + "b"]


def write_gguf(path: Path) -> None:
    """A one-layer Llama with random weights and a byte-pair tokenizer of printable ASCII."""
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    draw = np.random.default_rng(0)
    for name, shape in tensor_shapes().items():
        writer.add_tensor(name, draw.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor_shapes() -> dict[str, tuple[int, ...]]:
    square = {f"blk.0.attn_{part}.weight": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
    return {
        "token_embd.weight": (len(TOKENS), WIDTH),
        "output_norm.weight": (WIDTH,),
        "blk.0.attn_norm.weight": (WIDTH,),
        "blk.0.ffn_norm.weight": (WIDTH,),
        "blk.0.ffn_gate.weight": (HIDDEN, WIDTH),
        "blk.0.ffn_up.weight": (HIDDEN, WIDTH),
        "blk.0.ffn_down.weight": (WIDTH, HIDDEN),
        **square,
    }


def packaged(weights: bytes, site: Path) -> PackagedModel:
    """A model whose package is already installed under `site`."""
    info = site / "tiny_weights-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
    (site / "tiny.gguf").write_bytes(weights)
    return PackagedModel(
        alias="tiny",
        model_id="Tiny",
        package="tiny-weights",
        version="1.0",
        wheel_sha256="",
        wheel_bytes=0,
        member="tiny.gguf",
        gguf_sha256=hashlib.sha256(weights).hexdigest(),
        gguf_bytes=len(weights),
        peak_bytes=0,
    )


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return packaged((tmp_path / "tiny.gguf").read_bytes(), tmp_path / "site")


def test_two_writers_convert_once_and_the_result_is_whole(
    model: PackagedModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "cache"
    heard: list[list[Progress]] = [[], []]
    paths: list[Path] = []
    writers = [
        threading.Thread(
            target=lambda h=h: paths.append(ModelLibrary(root).fetch(model, report=h.append))
        )
        for h in heard
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    path = ModelLibrary(root).verify(model)
    assert paths == [path, path]
    converted = [any(p.phase is Phase.CONVERT for p in one) for one in heard]
    assert sorted(converted) == [False, True]
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".lock", path.name]
    assert capfd.readouterr() == ("", "")
    check_checkpoint(path)
    assert_same_model(tmp_path / "tiny.gguf", path)


def assert_same_model(gguf: Path, path: Path) -> None:
    """The safetensors hold what the GGUF holds, in float32, with a tokenizer that works."""
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(path, local_files_only=True)
    weights = {tensor.name: tensor.data for tensor in GGUFReader(gguf).tensors}
    embedding = loaded.get_input_embeddings().weight
    assert embedding.dtype is torch.float32
    np.testing.assert_array_equal(embedding.detach().numpy(), weights["token_embd.weight"])
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    ids = tokenizer.encode("ab<|im_end|>", add_special_tokens=False)
    assert ids == [TOKENS.index("ab"), 2]


def test_a_file_that_is_no_model_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    library = ModelLibrary(tmp_path / "cache")
    broken = packaged(b"GGUF" + bytes(100), tmp_path / "site")
    with pytest.raises(ModelError, match=r"cannot convert tiny\.gguf") as caught:
        library.fetch(broken)
    assert caught.value.exit_code == 2
    assert library.state(broken) is ModelState.ABSENT
    assert [entry.name for entry in (tmp_path / "cache" / "models").iterdir()] == [".lock"]


def test_force_replaces_a_damaged_model(model: PackagedModel, tmp_path: Path) -> None:
    library = ModelLibrary(tmp_path / "cache")
    path = library.path_of(model)
    path.mkdir(parents=True)
    (path / "manifest.json").write_text("{}")
    (path / "junk").touch()
    assert library.state(model) is ModelState.DAMAGED
    assert library.fetch(model, force=True) == path
    assert library.verify(model) == path
    assert not (path / "junk").exists()


@pytest.mark.model
def test_the_default_model_is_whole_to_the_last_byte() -> None:
    path = resolve_model(DEFAULT_MODEL)
    assert ModelLibrary().verify(KNOWN_MODELS[DEFAULT_MODEL]) == path
    check_checkpoint(Path(path))
