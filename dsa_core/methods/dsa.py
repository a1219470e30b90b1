"""Differentiable Sparsity Allocation: keep ratios by the gradient of the validation loss."""

from torch import nn

from dsa_core.allocation import Allocation
from dsa_core.budget import Budget, make_optimizer
from dsa_core.channels import ChannelGraph
from dsa_core.methods.config import OnStep, SearchConfig, SearchData
from dsa_core.methods.problem import Problem
from dsa_core.methods.ratios import KeepRatioScheme
from dsa_core.methods.search import search


def allocate(
    model: nn.Module,
    graph: ChannelGraph,
    budget: Budget,
    data: SearchData,
    config: SearchConfig,
    *,
    seed: int,
    on_step: OnStep | None = None,
) -> Allocation:
    """Search keep ratios by DSA, from random weights (with a warm-up) or from a trained network.

    Weights and keep ratios are trained in turn, in place: weights on `data.weights` under masks
    drawn from the keep probabilities, keep ratios on `data.ratios` under the budget.

    Deviations from the paper in the default configuration; each is explained where it is made:
    masks act at the consumers of a channel, not after BatchNorm (`masks`); the gradient is "mixed",
    half mean field and half straight-through (`masks.estimator_mask`); the ADMM steps are made in
    log ratios and meet the budget from both sides (`admm.Priced`), which falls over
    `anneal_fraction` of the search; sharpness, the time between updates and the rest are of
    `SearchConfig`. `optimizer="paper", estimator="straight_through"` takes the paper's equations,
    the preset "paper" its settings too; masks act at the consumers even then.

    Args:
        model: dense network on its device; it is trained in place.
        graph: of the model.
        budget: to reach.
        data: batches for the weights and for the keep ratios.
        config: how to search.
        seed: of the masks.
        on_step: called with every update of the keep ratios; True ends the search at once.

    Source: Ning et al., DSA, ECCV 2020 (arXiv:2004.02164).
    """
    problem = Problem("dsa", model, graph, budget, data, config, seed)
    optimizer = make_optimizer(
        config.optimizer, problem.form, floors=problem.floors, settings=config.settings
    )
    return search(problem, KeepRatioScheme(problem, optimizer), on_step)
