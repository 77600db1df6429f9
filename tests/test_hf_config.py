"""Hugging Face configs: parameters by arithmetic agree with the published counts, and what is not modelled is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sim.hardware import build_machine, load_model, manifest
from sim.hf_config import read_config
from sim.simulate import simulate
from traces import make_trace
from traces.errors import BadInput

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "hidden_size": 4096, "intermediate_size": 14336,
    "max_position_embeddings": 8192, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "rope_scaling": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 128256,
}
QWEN25_32B = {
    "architectures": ["Qwen2ForCausalLM"], "hidden_size": 5120, "intermediate_size": 27648, "max_position_embeddings": 131072,
    "max_window_layers": 64, "model_type": "qwen2", "num_attention_heads": 40, "num_hidden_layers": 64, "num_key_value_heads": 8,
    "sliding_window": 131072, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_sliding_window": False,
    "vocab_size": 152064,
}
QWEN25_7B = QWEN25_32B | {"hidden_size": 3584, "intermediate_size": 18944, "max_window_layers": 28, "num_attention_heads": 28,
                          "num_hidden_layers": 28, "num_key_value_heads": 4}
QWEN25_HALF_B = QWEN25_32B | {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_hidden_layers": 24,
                              "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 151936}
QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128, "hidden_size": 4096,
    "intermediate_size": 12288, "max_position_embeddings": 40960, "num_attention_heads": 32, "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_sliding_window": False,
    "vocab_size": 151936,
}
MISTRAL_7B = {
    "architectures": ["MistralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "sliding_window": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 32768,
}
LLAMA2_7B = LLAMA | {"intermediate_size": 11008, "max_position_embeddings": 4096, "num_key_value_heads": 32,
                     "torch_dtype": "float16", "vocab_size": 32000}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """A function: a config, some keys changed (or removed: `...`), as a file."""
    def config(content: dict[str, Any] = LLAMA, **changes: Any) -> Path:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({key: value for key, value in (content | changes).items() if value is not ...}))
        return path
    return config


def fault(path: Path | str) -> str:
    with pytest.raises(BadInput) as caught:
        load_model(path)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 400
    return line


@pytest.mark.parametrize(("config", "parameters", "kv_bytes"), [
    (LLAMA, 8_030_261_248, 131_072),
    (LLAMA2_7B, 6_738_415_616, 524_288),
    (MISTRAL_7B, 7_248_023_552, 131_072),
    (QWEN25_HALF_B, 494_032_768, 12_288),
    (QWEN25_7B, 7_615_616_512, 57_344),
    (QWEN25_32B, 32_763_876_352, 262_144),
    (QWEN3_8B, 8_190_735_360, 147_456),
], ids=["llama3-8b", "llama2-7b", "mistral-7b-v0.3", "qwen2.5-0.5b", "qwen2.5-7b", "qwen2.5-32b", "qwen3-8b"])
def test_parameters_are_the_published_count(write: Any, config: dict[str, Any], parameters: int, kv_bytes: int) -> None:
    """As the safetensors index or the model card on Hugging Face counts them."""
    model = load_model(write(config))
    assert (model.parameters, model.kv_token_bytes) == (parameters, kv_bytes)


@pytest.mark.parametrize(("name", "config"), [("llama3-8b", LLAMA), ("qwen2-7b", QWEN25_7B), ("qwen2.5-7b", QWEN25_7B),
                                              ("qwen2.5-32b", QWEN25_32B)])
def test_models_of_the_package_have_the_shapes_of_their_configs(write: Any, name: str, config: dict[str, Any]) -> None:
    own_words = {"name", "source"}
    assert load_model(write(config)).model_dump(exclude=own_words) == load_model(name).model_dump(exclude=own_words)


def test_what_a_config_leaves_out_is_as_in_transformers_and_vllm(write: Any) -> None:
    bare = {"num_key_value_heads": ..., "torch_dtype": ..., "tie_word_embeddings": ..., "attention_bias": ...}
    model = load_model(write(LLAMA, **bare))
    assert (model.kv_heads, model.head_dim, model.dtype, model.tied_embeddings) == (32, 128, "bfloat16", False)
    assert load_model(write(QWEN3_8B, hidden_size=2560, head_dim=...)).head_dim == 128
    assert load_model(write(torch_dtype="float32")).weight_bytes == 2 * 8_030_261_248
    assert load_model(write(torch_dtype=..., dtype="float16")).dtype == "float16"


def test_biases_count(write: Any) -> None:
    assert load_model(write(attention_bias=True)).parameters - 8_030_261_248 == 32 * (4096 + 2 * 1024 + 4096)
    assert load_model(write(mlp_bias=True)).parameters - 8_030_261_248 == 32 * (2 * 14336 + 4096)
    assert load_model(write(tie_word_embeddings=True)).parameters == 8_030_261_248 - 128_256 * 4096


def test_a_directory_and_every_kind_of_path_will_do(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write()
    monkeypatch.chdir(path.parent.parent)
    for given in (path, str(path), path.parent, f"{path.parent.name}/"):
        assert load_model(given).layers == 32
    monkeypatch.chdir(path.parent)
    assert load_model("config.json").layers == 32


def test_a_config_is_simulated_and_called_an_estimate(write: Any) -> None:
    path = write(QWEN3_8B)
    result = simulate("vllm", make_trace([0.0, 0.1], 20, 5), model=str(path))
    assert result.summary["completed"] == 2
    assert result.summary["model"] == str(path)
    assert result.summary["model_parameters"] == 8_190_735_360
    assert result.summary["latency_status"].startswith("estimated: scaled from llama3-8b on rtx4090")
    assert simulate("vllm", make_trace([0.0], 20, 5), model=path).summary["kv_token_bytes"] == 147_456


def test_a_config_of_a_known_models_shapes_has_its_step_times(write: Any) -> None:
    path = write(QWEN25_7B)
    assert build_machine("h200", path) == build_machine("h200", "qwen2.5-7b")
    assert "scaled from qwen2.5-7b on h200" in str(manifest("h200", path)["latency_status"])


@pytest.mark.parametrize(("changes", "says"), [
    ({"num_local_experts": 8}, "num_local_experts: not modelled: mixtures of experts"),
    ({"num_experts": 128}, "num_experts: not modelled: mixtures of experts"),
    ({"n_routed_experts": 256}, "n_routed_experts: not modelled: mixtures of experts"),
    ({"kv_lora_rank": 512}, "kv_lora_rank: not modelled: multi-head latent attention"),
    ({"quantization_config": {"quant_method": "awq"}}, "quantization_config: not modelled: quantised weights"),
    ({"text_config": {"hidden_size": 4096}, "hidden_size": ...}, "text_config: not modelled: multi-modal input"),
    ({"architectures": ["MixtralForCausalLM"]}, "architectures: not modelled: ['MixtralForCausalLM']; must be one of Llama"),
    ({"is_encoder_decoder": True}, "is_encoder_decoder: not modelled: encoder-decoder models"),
    ({"model_type": "mixtral"}, "model_type: 'mixtral' contradicts architectures, LlamaForCausalLM: must be 'llama'"),
    ({"model_type": ["llama"]}, "model_type: ['llama'] contradicts architectures"),
    ({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen3"}, "model_type: 'qwen3' contradicts"),
    ({"architectures": []}, "architectures: not modelled: []"),
    ({"architectures": ...}, "architectures: missing; must be one of"),
    ({"architectures": "LlamaForCausalLM"}, "architectures: not modelled"),
    ({"architectures": [["LlamaForCausalLM"]]}, "architectures: not modelled"),
    ({"architectures": ["MistralForCausalLM"], "sliding_window": 4096}, "sliding_window: not modelled: attention to a window of"),
    ({"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True, "sliding_window": 4096}, "sliding_window: not modelled"),
    ({"sliding_window": "wide"}, "sliding_window: not modelled: attention to a window"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types: not modelled: sliding_attention; must all be"),
    ({"layer_types": 7}, "layer_types: not modelled: 7"),
    ({"num_hidden_layers": 0}, "num_hidden_layers: Input should be greater than or equal to 1, got 0"),
    ({"num_hidden_layers": 10**30}, "num_hidden_layers: Input should be less than or equal to 10000"),
    ({"hidden_size": ...}, "hidden_size: missing"),
    ({"hidden_size": -4096}, "hidden_size: Input should be greater"),
    ({"hidden_size": 4096.5}, "hidden_size: Input should be a valid integer"),
    ({"hidden_size": "4096"}, "hidden_size: Input should be a valid integer"),
    ({"hidden_size": True}, "hidden_size: Input should be a valid integer"),
    ({"hidden_size": 4097}, "hidden_size 4097 is no multiple of num_attention_heads 32"),
    ({"num_key_value_heads": 0}, "num_key_value_heads: Input should be greater"),
    ({"num_key_value_heads": 5}, "num_attention_heads 32 is no multiple of num_key_value_heads 5"),
    ({"num_key_value_heads": 64}, "num_attention_heads 32 is no multiple of num_key_value_heads 64"),
    ({"intermediate_size": None}, "intermediate_size: Input should be a valid integer"),
    ({"vocab_size": 0}, "vocab_size"),
    ({"max_position_embeddings": ...}, "max_position_embeddings: missing"),
    ({"torch_dtype": "float8_e4m3fn"}, "torch_dtype: Input should be 'bfloat16', 'float16' or 'float32'"),
    ({"tie_word_embeddings": "no"}, "tie_word_embeddings: Input should be a valid boolean"),
])
def test_what_is_not_modelled_or_makes_no_sense_is_one_line(write: Any, changes: dict[str, Any], says: str) -> None:
    line = fault(write(**changes))
    assert says in line
    assert line.startswith("model config ")
    assert "config.json: " in line


@pytest.mark.parametrize("changes", [
    {"sliding_window": 8192},                                           # as long as the context
    {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "sliding_window": 4096},    # Qwen's default is not to use it
    {"layer_types": ["full_attention"] * 32, "quantization_config": None, "num_experts": None, "unheard_of": {"of": "key"}},
])
def test_what_changes_nothing_is_taken(write: Any, changes: dict[str, Any]) -> None:
    assert load_model(write(**changes)).layers == 32


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b'{"architectures": NaN}', b"[" * 100_000])
def test_files_that_are_no_config_fail_in_one_line(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text)
    assert "config.json" in fault(path)


@pytest.mark.parametrize(("path", "says"), [
    ("no/such/config.json", "model config: no/such/config.json: No such file or directory"),
    ("meta-llama/Meta-Llama-3-8B", "nothing is downloaded, give the path of the model's config.json"),
    ("nul\0.json", "null"),
    ("x" * 5000 + ".json", "name too long"),
])
def test_paths_that_lead_nowhere(path: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="(?i)" + says.replace(".", r"\.")):
        read_config(Path(path))


def test_an_empty_directory_has_no_config(tmp_path: Path) -> None:
    assert "config.json: No such file" in fault(tmp_path)
