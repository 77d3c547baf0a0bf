"""`agenttts serve --dry-run` plans servers for a machine that need not be this one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipelines.zoo import SPEC
from tests.agenttts.commands import agenttts
from tests.agenttts.serving.public_models import ROOT, write_configs


@pytest.fixture(scope="module")
def hotpotqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published pipeline, its models in directories with their public configs."""
    folder = tmp_path_factory.mktemp("hotpotqa")
    directories = write_configs(folder / "models")
    yaml = YAML(typ="safe", pure=True)
    document = yaml.load((ROOT / "retrieve_answer/hotpotqa.yaml").read_text())
    for model in document["models"].values():
        model["path"] = str(directories[model["path"]])
    for stage in document["stages"]:
        stage["prompt_file"] = str(ROOT / "retrieve_answer" / stage["prompt_file"])
    file = folder / "pipeline.yaml"
    with file.open("w") as opened:
        yaml.dump(document, opened)
    return file


def test_the_table_and_the_commands_of_another_machine(hotpotqa: Path) -> None:
    """A row for each server, then the commands that take those GPUs and shares."""
    done = agenttts("serve", hotpotqa, "--dry-run", "--gpus", "8x80")
    table = [line.split() for line in done.out.splitlines()[:7]]
    assert table[0] == ["server", "GPUs", "share", "weights", "KV", "cache", "own", "context", "at", "once"]
    rows = {cells[0]: cells[1:] for cells in table[1:]}
    assert rows["qwen-72b"][0] == "0,1,2,3" and rows["qwen-72b"][2] == "≈36.4"
    assert "CUDA_VISIBLE_DEVICES=0,1,2,3" in done.out and "--tensor-parallel-size 4" in done.out
    planned = agenttts("serve", hotpotqa, "--dry-run", "--gpus", "8x80", "--json").json
    for command in planned:
        argv, seat = command["argv"], command["placement"]
        assert command["env"]["CUDA_VISIBLE_DEVICES"] == ",".join(seat["gpus"])
        share = float(argv[argv.index("--gpu-memory-utilization") + 1])
        assert share == seat["gpu_memory_utilization"] <= 0.92
    by_gpu = {
        gpu: sum(c["placement"]["gpu_memory_utilization"] for c in planned if gpu in c["placement"]["gpus"])
        for gpu in map(str, range(8))
    }
    assert max(by_gpu.values()) <= 0.92


def test_what_does_not_fit_is_refused_with_the_arithmetic_and_the_remedies(hotpotqa: Path) -> None:
    """Exit code 2 and one line; what it says to leave out makes the rest fit."""
    done = agenttts("serve", hotpotqa, "--dry-run", "--gpus", "4x80")
    assert done.code == 2 and len(done.err.splitlines()) == 1, done.err
    (line,) = done.errors
    assert "6 servers do not fit 4x80, where 294 GB can be used" in line and "qwen-72b 145.4 + 10.7 +" in line
    assert re.search("leave out (qwen-32b, llama-70b|llama-70b, qwen-32b), in the stages too", line)
    assert "8 bits" in line and "--enable-sleep-mode" in line
    kept = ["--only", "qwen-7b", "--only", "qwen-72b", "--only", "llama-3b", "--only", "llama-8b"]
    assert agenttts("serve", hotpotqa, "--dry-run", "--gpus", "4x80", *kept).code == 0


def test_concurrency_is_planned_for(hotpotqa: Path) -> None:
    """More sequences at once than fit by the smallest split take a larger one."""
    few, many = (
        agenttts("serve", hotpotqa, "--only", "qwen-7b", "--dry-run", "--gpus", "4x24", "--json", *more).json[
            0
        ]["placement"]
        for more in ((), ("--concurrency", "150"))
    )
    assert (few["tensor_parallel_size"], many["tensor_parallel_size"]) == (1, 2)
    assert few["sequences_at_once"] >= 32 and many["sequences_at_once"] >= 150


def test_a_cpu_has_no_placement_and_a_wrong_machine_is_refused() -> None:
    """On a CPU the commands are those of before."""
    done = agenttts("serve", SPEC, "--dry-run", "--device", "cpu", "--json")
    assert [command["placement"] for command in done.json] == [None] * 3
    assert agenttts("serve", SPEC, "--dry-run", "--gpus", "lots").code == 2


def test_idle_gpus_get_replicas(hotpotqa: Path) -> None:
    """auto fills a machine with servers of each model that share no GPU, behind a router for each model."""
    only = ["--only", "qwen-7b", "--only", "llama-8b", "--dry-run", "--gpus", "8x80"]
    said = " ".join(agenttts("serve", hotpotqa, *only).err.split())
    assert "6 of 8 GPUs are idle; --replicas auto starts 4 servers for each model" in said
    planned = agenttts("serve", hotpotqa, *only, "--replicas", "auto", "--json").json
    servers, routers = planned[:-2], planned[-2:]
    assert len(servers) == 8 and [one["placement"] for one in routers] == [None, None]
    assert sorted(gpu for one in servers for gpu in one["placement"]["gpus"]) == [str(i) for i in range(8)]
    addresses = {one["health_url"].removesuffix("/health") for one in servers}
    assert len(addresses) == 8
    workers = [{word for word in one["argv"] if word.startswith("http://")} for one in routers]
    assert [len(urls) for urls in workers] == [4, 4] and set.union(*workers) == addresses
    two = agenttts("serve", hotpotqa, *only, "--replicas", 2, "--json").json
    assert len(two) == 2 * 2 + 2
    assert agenttts("serve", hotpotqa, *only, "--replicas", 99).code == 2


@pytest.mark.parametrize("replicas", ["0", "many", "1.5"])
def test_a_number_of_replicas_that_can_not_be_is_refused(replicas: str) -> None:
    """It is auto, or 1 or more; and without known GPUs there is one server for each model."""
    done = agenttts("serve", SPEC, "--replicas", replicas, "--dry-run")
    assert done.code == 2 and "--replicas is auto, or 1 or more" in done.errors[0]
    done = agenttts("serve", SPEC, "--replicas", 2, "--dry-run", "--device", "cpu")
    assert done.code == 2 and "--replicas needs GPUs whose sizes are known" in done.errors[0]
