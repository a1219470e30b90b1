"""Hugging Face's Trainer: batches of keywords, and a loss that the model computes."""

import pytest
import torch
from small_search import ends_well, evaluated, masked, values
from torch.utils.data import Dataset

from dsa_core.budget import Budget
from dsa_core.dsa import DSA
from dsa_core.pruner import Pruner
from dsa_core.surgery.cut import prune

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
         "intermediate_size": 64, "num_labels": 2}  # fmt: skip
STEPS = 20


class Sentences(Dataset):
    """Whether the first word of eight is below 8."""

    def __init__(self, n: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.words = torch.randint(0, 16, (n, 8), generator=generator)

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        words = self.words[i]
        return {"input_ids": words, "attention_mask": torch.ones_like(words),
                "labels": (words[0] < 8).long()}  # fmt: skip


def bert() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=16, max_position_embeddings=8, **SMALL)
    return transformers.BertForSequenceClassification(config)


class Checks(transformers.TrainerCallback):
    """Compares the network that is evaluated with the one that would be cut."""

    def __init__(self, pruner: Pruner, batch: dict[str, torch.Tensor]) -> None:
        self.pruner, self.batch, self.times = pruner, batch, 0

    def on_evaluate(self, args, state, control, model, **others):
        cut = prune(self.pruner.model, self.pruner.graph, self.pruner.allocation.keep)
        before = values(model)
        torch.testing.assert_close(
            evaluated(model, **self.batch).logits, evaluated(cut, **self.batch).logits,
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip
        assert all(torch.equal(before[name], value) for name, value in values(model).items())
        self.times += 1


def test_the_trainer_searches(tmp_path):
    model, rows = bert(), Sentences(320)
    example = {name: value[None] for name, value in rows[0].items() if name != "labels"}
    settings = transformers.TrainingArguments(
        tmp_path, max_steps=STEPS, per_device_train_batch_size=8, gradient_accumulation_steps=2,
        max_grad_norm=1.0, learning_rate=3e-3, eval_strategy="steps", eval_steps=5, use_cpu=True,
        save_strategy="steps", save_steps=7, report_to="none", disable_tqdm=True, seed=0,
        logging_strategy="no",
    )  # fmt: skip
    method = DSA(anneal_fraction=0.5)
    found = Pruner(model, example, Budget(macs=0.7), steps=STEPS, method=method)
    checks = Checks(found, example)
    trainer = transformers.Trainer(
        model, settings, train_dataset=rows, eval_dataset=Sentences(16), callbacks=[checks]
    )
    found.attach(trainer.create_optimizer())
    trainer.train()
    assert checks.times == 4
    assert not masked(model)
    smaller = ends_well(found, steps=STEPS, example=example)
    assert type(smaller) is type(model)
    assert len(list(tmp_path.glob("checkpoint-*"))) == 3
