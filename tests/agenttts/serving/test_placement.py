"""Servers get the GPUs that hold them, or are refused with what would fit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.errors import UserError
from agenttts.serving.architecture import read_architecture
from agenttts.serving.machine import parse_gpus
from agenttts.serving.needs import Need, server_needs
from agenttts.serving.placement import CONTEXT_BYTES, USABLE_SHARE, Placement, place
from agenttts.serving.remedies import DoesNotFit
from agenttts.serving.servers import placed, planned_servers
from agenttts.serving.weights import ModelSize
from pipelines.servers.hosted import Hosted
from pipelines.spec.pipeline import PipelineSpec
from tests.agenttts.serving.public_models import (
    MACHINES,
    PARAMS,
    PIPELINES,
    config,
    published,
    write_configs,
)
from tests.agenttts.small_specs import small_spec

SEATS: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("retrieve_answer/hotpotqa", "8x80"): {
        "qwen-72b": "0,1,2,3",
        "llama-70b": "4,5,6,7",
        "qwen-32b": "4,5,6,7",
        "qwen-7b": "0",
        "llama-8b": "1",
        "llama-3b": "2",
    },
    ("retrieve_answer/hotpotqa", "8x141"): {
        "qwen-72b": "0,1",
        "llama-70b": "2,3",
        "qwen-32b": "4",
        "qwen-7b": "5",
        "llama-8b": "6",
        "llama-3b": "7",
    },
    ("rag/2wiki-rag", "8x80"): {"qwen-72b": "0,1,2,3", "qwen-32b": "4,5", "qwen-7b": "6"},
    ("rag/2wiki-rag", "8x141"): {"qwen-72b": "0,1", "qwen-32b": "2", "qwen-7b": "3"},
    ("knowledge_graph/cwq", "8x80"): {
        "qwen-72b": "0,1,2,3",
        "llama-70b": "4,5,6,7",
        "qwen-7b": "4",
        "llama-8b": "5",
    },
    ("knowledge_graph/cwq", "8x141"): {
        "qwen-72b": "0,1",
        "llama-70b": "2,3",
        "qwen-7b": "4",
        "llama-8b": "5",
    },
    ("tool_use/taskbench_dailylife", "4x80"): {"llama-70b": "0,1,2,3", "llama-8b": "0,1"},
    ("tool_use/taskbench_dailylife", "8x80"): {"llama-70b": "0,1,2,3", "llama-8b": "4"},
    ("tool_use/taskbench_dailylife", "8x141"): {"llama-70b": "0,1", "llama-8b": "2"},
    ("software/mbpp", "4x80"): {"llama-70b": "0,1,2,3", "llama-3b": "0"},
    ("software/mbpp", "8x80"): {"llama-70b": "0,1,2,3", "llama-3b": "4"},
    ("software/mbpp", "8x141"): {"llama-70b": "0,1", "llama-3b": "2"},
}
"""The GPUs of each server; what is not here does not fit in 16 bits."""


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_configs(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", PIPELINES)
def test_the_published_pipelines_on_six_machines(
    name: str, machine: str, directories: dict[str, Path]
) -> None:
    """Each server has the fewest GPUs that hold it; what does not fit is refused with remedies that do."""
    spec, gpus = published(name, directories), parse_gpus(machine)
    if (name, machine) not in SEATS:
        with pytest.raises(DoesNotFit, match=re.escape(f"servers do not fit {machine}")) as refusal:
            placed(spec, None, gpus)
        for models in re.findall(r"stages too: ((?:--only \S+ ?)+)", str(refusal.value)):
            assert placed(spec, models.replace("--only", "").split(), gpus)
        (larger,) = re.findall(r"a machine of (\S+)", str(refusal.value))
        assert placed(spec, None, parse_gpus(larger))
        return
    placement = placed(spec, None, gpus)
    seats = {one.need.name: ",".join(gpu.device for gpu in one.gpus) for one in placement.servers}
    assert seats == SEATS[name, machine]
    assert_adds_up(placement)
    assert placement.planned_sequences == 32 and all(one.n_sequences >= 32 for one in placement.servers)


def assert_adds_up(placement: Placement) -> None:
    """Shares and contexts fit on every GPU, and each server has what it needs in its share."""
    for gpu in placement.gpus:
        servers = [one for one in placement.servers if gpu in one.gpus]
        taken = sum(one.share for one in servers) * gpu.memory_bytes + CONTEXT_BYTES * (len(servers) - 1)
        assert taken <= USABLE_SHARE * gpu.memory_bytes + 1, gpu
    for one in placement.servers:
        size = one.gpus[0].memory_bytes
        assert len(one.gpus) in one.need.splits and all(gpu.memory_bytes == size for gpu in one.gpus)
        assert one.share * size >= one.planned.total - size / 1000


@given(
    n_gpus=st.integers(1, 8),
    gb=st.sampled_from([24, 80, 141]),
    servers=st.lists(
        st.tuples(st.floats(0.1, 150), st.sampled_from([8, 12, 28, 40, 64]), st.sampled_from([4, 8])),
        min_size=1,
        max_size=8,
    ),
)
def test_shares_add_up_on_any_machine(n_gpus: int, gb: int, servers: list[tuple[float, int, int]]) -> None:
    """No GPU is promised more than it has, whatever the sizes of the models."""
    needs = [made_need(f"m{i}", size, heads, kv) for i, (size, heads, kv) in enumerate(servers)]
    placement = place(needs, parse_gpus(f"{n_gpus}x{gb}"))
    if placement is not None:
        assert {one.need.name for one in placement.servers} == {need.name for need in needs}
        assert_adds_up(placement)


def made_need(name: str, weights_gb: float, heads: int, kv_heads: int) -> Need:
    sizes = {"num_hidden_layers": 32, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    architecture = read_architecture({**sizes, "hidden_size": heads * 128, "intermediate_size": 8192})
    return Need(
        hosted=Hosted(base=name, twins=(), adapters=()),
        size=ModelSize(weights_bytes=weights_gb * 1e9, architecture=architecture),
        adapters_bytes=0.0,
        context_tokens=8192,
        sequence_tokens=1024,
        number_bytes=2.0,
        splits=architecture.splits,
    )


def test_parameters_and_cache_by_the_public_configs() -> None:
    """Parameters agree with the cards to a thousandth, and a token of the 72 B model takes 327,680 bytes."""
    for name, n_params in PARAMS.items():
        assert read_architecture(config(name)).n_params == pytest.approx(n_params, rel=1e-3), name
    large = read_architecture(config("Qwen/Qwen2.5-72B-Instruct"))
    assert large.kv_bytes(1, 2.0) == 327_680 and large.kv_bytes(1, 2.0, split=4) == 81_920
    assert large.kv_bytes(1, 2.0, split=16) == 40_960, "eight heads can't be split sixteenfold: they repeat"
    assert large.splits == (1, 2, 4, 8, 16, 32, 64)
    assert read_architecture(config("Qwen/Qwen2.5-7B-Instruct")).splits == (1, 2, 4), "28 heads"


def test_caches_that_do_not_grow_by_all_heads() -> None:
    """Latent attention keeps 576 numbers a token, a window its own tokens; head_dim may be stated."""
    plain = {"num_hidden_layers": 27, "num_attention_heads": 16, "hidden_size": 2048}
    latent = read_architecture({**plain, "kv_lora_rank": 512, "qk_rope_head_dim": 64})
    assert latent.kv_bytes(10, 2.0) == latent.kv_bytes(10, 2.0, split=8) == 27 * 576 * 2 * 10
    kinds = ["sliding_attention", "full_attention", "linear_attention"] * 9
    windowed = read_architecture({**plain, "layer_types": kinds, "sliding_window": 128, "head_dim": 64})
    assert windowed.kv_bytes(1000, 2.0) == 16 * 2 * 64 * 2 * (9 * 1000 + 9 * 128)
    assert read_architecture({"text_config": plain}).kv_bytes(1, 2.0) == 27 * 16 * 2 * 128 * 2


def model_spec(directory: Path, *serve_args: str, **fields: Any) -> PipelineSpec:
    """A pipeline of one model of 72 B, at a local address."""
    model = {
        "base_url": "http://127.0.0.1:8201/v1",
        "path": str(directory),
        "serve_args": serve_args,
        "active_params": 72e9,
        **fields,
    }
    return small_spec(params={"big": 72e9}, models={"big": model})


def test_what_the_models_own_arguments_say_holds(directories: dict[str, Path]) -> None:
    """Its split, its share, its context and its 8-bit cache and weights are planned with."""
    directory = directories["Qwen/Qwen2.5-72B-Instruct"]
    gpus = parse_gpus("8x80")

    def seat(*args: str, **fields: Any) -> tuple[int, float, Need]:
        (one,) = placed(model_spec(directory, *args, **fields), None, gpus).servers
        return len(one.gpus), one.share, one.need

    assert seat()[:2] == (4, 0.92)
    assert seat("--tensor-parallel-size=8")[0] == 8
    assert seat("-tp", "4", "--gpu-memory-utilization", "0.6")[:2] == (4, 0.6)
    assert seat("--quantization", "fp8")[0] == 2
    assert seat("--kv-cache-dtype", "fp8")[2].cache_bytes(1, 1) == 327_680 / 2
    assert seat("--max-model-len", "8k")[2].context_tokens == 8000
    assert seat(context_length=4096)[2].context_tokens == 4096
    assert seat()[2].context_tokens == 131_072, "as config.json has it"
    with pytest.raises(UserError, match="divides its 64 heads"):
        seat("--tensor-parallel-size", "3")
    for share in ("half", "0", "0.0", "1.5", "nan", "-0.1"):
        with pytest.raises(UserError, match="above 0 and at most 1"):
            seat("--gpu-memory-utilization", share)
    with pytest.raises(UserError, match="pipeline-parallel-size can't be planned"):
        seat("--pipeline-parallel-size", "2")


def test_less_room_than_wished_is_used_before_refusal(directories: dict[str, Path]) -> None:
    """Where 32 long sequences do not fit, the cache is planned for fewer, and says for how many."""
    spec = model_spec(directories["Qwen/Qwen2.5-72B-Instruct"], context_length=32768)
    long = [{**stage.model_dump(), "prompt_tokens": 30000} for stage in spec.stages]
    stages = tuple(type(spec.stages[0]).model_validate(stage) for stage in long)
    placement = placed(spec.model_copy(update={"stages": stages}), None, parse_gpus("4x80"))
    assert placement.planned_sequences < 32 and placement.servers[0].n_sequences >= 1


def test_an_adapter_takes_room_beside_its_base(tmp_path: Path) -> None:
    """Every GPU keeps it whole, in slots as large as the largest adapter."""
    header = json.dumps({"a": {"dtype": "BF16", "shape": [500], "data_offsets": [0, 1000]}}).encode()
    directories = write_configs(tmp_path, ["Qwen/Qwen2.5-7B-Instruct"])
    models: dict[str, dict[str, Any]] = {"base": {"path": str(*directories.values()), "context_length": 4096}}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "adapter_model.safetensors"
        file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(1000))
        models[name] = {"path": str(tmp_path / name), "parent": "base"}
    place_of = {"base_url": "http://127.0.0.1:8201/v1", "active_params": 7e9}
    spec = small_spec(
        params=dict.fromkeys(models, 7e9), models={name: {**place_of, **own} for name, own in models.items()}
    )
    (need,) = server_needs(spec)
    assert need.hosted == Hosted(base="base", twins=(), adapters=("one", "two"))
    assert need.adapters_bytes == 2000
    (command,) = planned_servers(spec, gpus=parse_gpus("2x24")).commands
    assert command.models == ("base", "one", "two") and command.env["CUDA_VISIBLE_DEVICES"] == "0"


def test_servers_of_different_cards() -> None:
    """A split server has GPUs of one size; a small one goes where there is room."""
    placement = place([made_need("big", 100, 64, 8), made_need("small", 14, 32, 8)], parse_gpus("1x24,2x80"))
    assert placement is not None
    assert devices(placement) == {"big": ["1", "2"], "small": ["0"]}


def devices(placement: Placement) -> dict[str, Sequence[str]]:
    return {one.need.name: [gpu.device for gpu in one.gpus] for one in placement.servers}
