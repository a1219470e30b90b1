"""Results reported in the DSA paper, to compare with what is measured here.

Source: Ning, Zhao, Li, Lei, Wang, Yang, "DSA: More Efficient Budgeted Pruning via Differentiable
Sparsity Allocation", ECCV 2020 (arXiv:2004.02164). Single numbers, without a spread.
"""

from dataclasses import dataclass

DATASET, RESOURCE = "cifar10", "macs"  # a ratio of FLOPs is a ratio of MACs
SAME_BUDGET = 0.005  # a third is written 0.333 or 1/3
BASE = {"resnet20": 92.17, "resnet56": 93.12, "resnet18_cifar": 94.0, "vgg16_cifar": 93.48}
# Ours with parameter-free shortcuts, beside the paper's with 1x1 convolutions there
NEAREST = {"resnet20_a": "resnet20", "resnet56_a": "resnet56"}

IMAGENET = ("resnet18", "resnet50")  # networks of its other table
EPOCHS = 300  # on CIFAR-10
RUNS = 1  # behind each number: none has a spread
FASTER = 1.5  # "at least", than pre-training, search and fine-tuning; an estimate of the authors
GPU_HOURS = {  # DSA, and the flow that it is compared with
    "ResNet-56 on CIFAR-10": (5.0, 10.0),
    "ResNet-18 on ImageNet": (300.0, 450.0),
}

# ResNet-18 on CIFAR-10, groups A to L in network order: A the stem; D, G, J the shortcut groups;
# E, H, K the strided convolutions; the others inner ones
GROUPS = "ABCDEFGHIJKL"
ORDERS = {  # most sensitive first; most channels kept first, at a quarter of the FLOPs
    "sensitivity": "AGDEHIJBCFKL",
    "dsa": "DGAIHJECBFKL",
    "ssl": "DEBACGFHJIKL",
}
SPEARMAN = {"dsa": 0.89, "ssl": 0.53}  # with the sensitivity, as printed; ORDERS give .92, .61
GRADIENT_SPEARMAN = 0.74  # |dL/dalpha| of the first search epoch with it


@dataclass(frozen=True)
class PaperResult:
    """One cell of the table.

    Attributes:
        model: by our name.
        method: by our name, or what ours would be.
        asked: budget, ratio of the dense FLOPs in (0, 1]; the reached one if none is stated.
        reached: FLOPs of the pruned network, ratio of the dense ones.
        accuracy: on the test set, in %.
        drop: against the method's own dense network, in points; None if not stated.
        missed: marked in the paper as over the budget.
        quoted: taken from the method's own paper, not run under the same conditions.
    """

    model: str
    method: str
    asked: float
    reached: float
    accuracy: float
    drop: float | None = None
    missed: bool = False
    quoted: bool = False


R20, R56, R18, VGG = BASE
RESULTS = (
    PaperResult(R20, "ssl", 0.75, 0.738, 91.08, 1.09),
    PaperResult(R20, "morphnet", 0.75, 0.749, 90.64, 1.53),
    PaperResult(R20, "variational", 0.75, 0.835, 91.66, 0.41, quoted=True),
    PaperResult(R20, "dsa", 0.75, 0.740, 92.10, 0.07),
    PaperResult(R56, "ssl", 0.75, 0.690, 92.06, 1.06),
    PaperResult(R56, "morphnet", 0.75, 0.692, 91.71, 1.41),
    PaperResult(R56, "variational", 0.75, 0.797, 92.26, 0.78, quoted=True),
    PaperResult(R56, "pfec", 0.75, 0.744, 91.31, 1.75, quoted=True),
    PaperResult(R56, "dsa", 0.75, 0.707, 93.08, 0.04),
    PaperResult(R20, "ssl", 0.5, 0.518, 89.78, 2.39, missed=True),
    PaperResult(R20, "morphnet", 0.5, 0.471, 90.10, 2.07),
    PaperResult(R20, "rethink", 0.5, 0.600, 91.07, 1.34, quoted=True),
    PaperResult(R20, "sfp", 0.5, 0.578, 90.83, 1.37, quoted=True),
    PaperResult(R20, "fpgm", 0.5, 0.578, 91.09, 1.11, quoted=True),
    PaperResult(R20, "lccl", 0.5, 0.640, 91.68, 1.06, quoted=True),
    PaperResult(R20, "dsa", 0.5, 0.497, 91.38, 0.79),
    PaperResult(R56, "ssl", 0.5, 0.455, 91.22, 1.90),
    PaperResult(R56, "morphnet", 0.5, 0.519, 91.55, 1.57, missed=True),
    PaperResult(R56, "amc", 0.5, 0.50, 91.9, 0.9, quoted=True),
    PaperResult(R56, "cp", 0.5, 0.50, 91.8, 1.0, quoted=True),
    PaperResult(R56, "rethink", 0.5, 0.50, 93.07, 0.73, quoted=True),
    PaperResult(R56, "sfp", 0.5, 0.474, 92.26, 1.33, quoted=True),
    PaperResult(R56, "fpgm", 0.5, 0.474, 92.93, 0.66, quoted=True),
    PaperResult(R56, "lccl", 0.5, 0.621, 92.81, 1.54, quoted=True),
    PaperResult(R56, "dsa", 0.5, 0.478, 92.91, 0.22),
    PaperResult(R20, "ssl", 1 / 3, 0.346, 89.06, 3.11, missed=True),
    PaperResult(R20, "morphnet", 1 / 3, 0.305, 88.72, 3.45),
    PaperResult(R20, "dsa", 1 / 3, 0.325, 90.24, 1.93),
    PaperResult(R56, "ssl", 1 / 3, 0.381, 91.32, 1.80, missed=True),
    PaperResult(R56, "morphnet", 1 / 3, 0.397, 91.21, 1.91, missed=True),
    PaperResult(R56, "dsa", 1 / 3, 0.326, 92.20, 0.92),
    PaperResult(R18, "dsa", 0.2246, 0.2246, 94.19),
    PaperResult(R18, "dsa", 0.1754, 0.1754, 93.90),
    PaperResult(R18, "autocompress", 0.2128, 0.2128, 93.91, quoted=True),
    PaperResult(VGG, "dsa", 0.3085, 0.3085, 93.26),
    PaperResult(VGG, "dsa", 0.0490, 0.0490, 90.16),
    PaperResult(VGG, "autocompress", 0.3226, 0.3226, 93.22, quoted=True),
    PaperResult(VGG, "autocompress", 0.0714, 0.0714, 88.78, quoted=True),
)


def paper_result(
    model: str, dataset: str, method: str, *, resource: str, ratio: float
) -> PaperResult | None:
    """The paper's result for this network, data, method and budget, or None."""
    if (dataset, resource) != (DATASET, RESOURCE):
        return None
    same = [r for r in RESULTS if (r.model, r.method) == (model, method)]
    return next((r for r in same if abs(r.asked - ratio) < SAME_BUDGET), None)


def nearest_result(model: str, method: str, *, ratio: float) -> PaperResult | None:
    """The paper's CIFAR-10 result for one of our networks, or its nearest relative (`NEAREST`)."""
    name = NEAREST.get(model, model)
    return paper_result(name, DATASET, method, resource=RESOURCE, ratio=ratio)


def shown(result: PaperResult | None) -> str:
    """Accuracy and FLOPs, both in %, as a table cell; "" for none."""
    if result is None:
        return ""
    marks = f"{'*' if result.quoted else ''}{' MISSED' if result.missed else ''}"
    return f"{result.accuracy:.2f} at {100 * result.reached:.1f}{marks}"
