"""The dense networks that are shipped: small, loadable, and as good as their records say."""

import json
from pathlib import Path

import pytest
import torch

from dsa_core.lab import data, models
from dsa_core.lab.models.weights import load_weights
from dsa_core.surgery.verify import count_macs
from dsa_core.training import evaluate

HOME = Path(__file__).parents[1] / "data" / "checkpoints"
MEGABYTE = 1e6
IMAGES = 2_000  # of the 10,000 of the test set
NAMES = ["resnet20", "resnet56"]
MACS = {"resnet20": 40.8e6, "resnet56": 125.7e6}  # the paper's networks, with convolved shortcuts


def facts_of(name: str) -> dict:
    return json.loads((HOME / f"{name}_cifar10.json").read_text())


def network(name: str) -> torch.nn.Module:
    model = models.build(name, num_classes=10)
    load_weights(model, HOME / f"{name}_cifar10.safetensors")
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_fits_its_network(name):
    assert (HOME / f"{name}_cifar10.safetensors").stat().st_size < 4 * MEGABYTE
    model = network(name)
    assert count_macs(model, torch.zeros(1, 3, 32, 32)) == pytest.approx(MACS[name], rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_its_record_is_of_this_training_and_the_page_of_the_data_says_the_same(name):
    facts = facts_of(name)
    assert (facts["model"], facts["dataset"], facts["score_name"]) == (name, "cifar10", "accuracy")
    assert len(facts["history"]) == facts["epochs"] == facts["config"]["epochs"]
    assert facts["history"][-1]["train_score"] > facts["history"][0]["train_score"]
    spent = sum(epoch["processor_seconds"] for epoch in facts["history"])
    assert facts["processor_seconds"] == pytest.approx(spent)
    assert not facts["git_commit"].endswith("+")  # of a clean tree
    lines = (HOME.parent / "README.md").read_text().splitlines()
    (line,) = (line for line in lines if f"`{name}_cifar10.safetensors`" in line)
    hours = f"{spent / 3600:.1f} hour"
    for said in (f"{100 * facts['score']:.2f} %", f"{facts['epochs']} epochs", hours):
        assert said in line


@pytest.mark.data
@pytest.mark.parametrize("name", NAMES)
def test_it_scores_as_recorded(name):
    try:
        dataset = data.load("cifar10")
    except data.files.DataError:
        pytest.skip("CIFAR-10 is missing: see data/README.md")
    batches = dataset.batches("test", batch_size=500, indices=torch.arange(IMAGES))
    found, wanted = evaluate(network(name), batches, dataset.task), facts_of(name)["score"]
    errors = (wanted * (1 - wanted) / IMAGES) ** 0.5
    assert found.score == pytest.approx(wanted, abs=3 * errors)
