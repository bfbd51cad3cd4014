"""What needs a GPU. Skipped, with a reason, where there is none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import trx

from .helpers import travels_by_value

travels_by_value(__name__)

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(180)]


@pytest.fixture(autouse=True)
def no_log_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRX_LOG_DIR", "")


def describe() -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    total = torch.ones(1, device="cuda")
    dist.all_reduce(total)
    return {
        "backend": dist.get_backend(),
        "device": torch.cuda.current_device(),
        "local_rank": int(os.environ["LOCAL_RANK"]),
        "sum": total.item(),
    }


def visible_devices() -> int:
    import torch

    return torch.cuda.device_count()


def on_the_gpu() -> Any:
    import torch

    weights = torch.nn.Linear(4, 2).cuda()
    return {"weights": weights.state_dict(), "value": torch.arange(6, device="cuda").reshape(2, 3)[:, 1:]}


def raise_on_the_gpu() -> None:
    import torch

    raise ValueError("on the device", torch.ones(2, device="cuda"))


def test_one_worker_for_each_gpu_with_nccl() -> None:
    result = trx.launch(describe, hostnames=["localhost"]).by_ranks()
    assert {value["backend"] for value in result} == {"nccl"}
    assert [value["device"] for value in result] == list(range(len(result)))
    assert {value["sum"] for value in result} == {float(len(result))}


def test_gpu_counts_follow_cuda_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert trx.launch(visible_devices, hostnames=["localhost"], workers_per_host="gpu").by_ranks() == [1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(trx.AgentFailedError, match="no GPU"):
        trx.launch(visible_devices, hostnames=["localhost"], workers_per_host="gpu")


def test_more_workers_than_gpus_use_gloo() -> None:
    gpus = len(trx.launch(visible_devices, hostnames=["localhost"], workers_per_host="gpu"))
    backend = trx.launch(backend_name, hostnames=["localhost"], workers_per_host=gpus + 1).rank(0)
    assert backend == "gloo"


def backend_name() -> str:
    import torch.distributed as dist

    return str(dist.get_backend())


def test_tensors_come_back_on_the_cpu() -> None:
    value = trx.launch(on_the_gpu, hostnames=["localhost"], workers_per_host=1).rank(0)
    assert value["value"].tolist() == [[1, 2], [4, 5]]
    assert {tensor.device.type for tensor in value["weights"].values()} == {"cpu"}


def test_exceptions_with_tensors_come_back_on_the_cpu() -> None:
    with pytest.raises(ValueError, match="on the device") as caught:
        trx.launch(raise_on_the_gpu, hostnames=["localhost"], workers_per_host=1)
    assert caught.value.args[1].device.type == "cpu"


def test_memory_is_free_before_the_next_launch() -> None:
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    before = pynvml.nvmlDeviceGetMemoryInfo(handle).used
    trx.launch(on_the_gpu, hostnames=["localhost"], workers_per_host=1)
    assert pynvml.nvmlDeviceGetMemoryInfo(handle).used - before < 64 << 20


def test_preloaded_module_may_ask_whether_there_is_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "eager.py").write_text("import torch\nassert torch.cuda.is_available()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    result = trx.launch(describe, hostnames=["localhost"], workers_per_host=1, preload=["eager"])
    assert result.rank(0)["sum"] == 1
