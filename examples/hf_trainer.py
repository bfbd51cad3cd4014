"""Hugging Face Transformers: its `Trainer` finds the process group of trx; only rank 0 writes the checkpoint.

`python examples/hf_trainer.py` runs on this machine,
`python examples/hf_trainer.py /shared/run1 node1 node2` on hosts that share a directory.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import trx

STEPS = 30
WORDS = 64


class Counting(Dataset[dict[str, Tensor]]):
    """Sequences in which each word is followed by the next one of the dictionary."""

    def __len__(self) -> int:
        return 512

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        words = torch.arange(index, index + 8) % WORDS
        return {"input_ids": words, "labels": words}


@dataclass
class Trained:
    world_size: int
    is_main: bool
    losses: list[float]  # as the trainer has logged them
    weights: float  # the sum of them all


def sum_of_weights(model: LlamaForCausalLM) -> float:
    return float(sum(parameter.double().sum().item() for parameter in model.parameters()))


def train(directory: str, steps: int) -> Trained:
    """Runs on every worker: an ordinary use of the trainer."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, **shape))  # made from a configuration: no download
    settings = TrainingArguments(
        output_dir=directory,
        use_cpu=not torch.cuda.is_available(),  # unasked, it trains alone where there is no GPU
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=0.01,
        logging_steps=5,
        save_steps=steps,
        ddp_find_unused_parameters=False,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=settings, train_dataset=Counting())
    trainer.train()

    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Trained(settings.world_size, trainer.is_world_process_zero(), losses, sum_of_weights(model))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        directory, hosts = (sys.argv[1], sys.argv[2:]) if sys.argv[1:] else (scratch, ["localhost"])
        result = trx.launch(
            train,
            func_args=(directory, STEPS),
            hostnames=hosts,
            workers_per_host="auto" if sys.argv[1:] else 2,
            preload=["transformers.trainer"],  # imported once on each host, instead of by every worker
        )
        saved = sum_of_weights(LlamaForCausalLM.from_pretrained(f"{directory}/checkpoint-{STEPS}"))
    print(f"the weights add up to {result.rank(0).weights:.4f}, those of the checkpoint to {saved:.4f}")
