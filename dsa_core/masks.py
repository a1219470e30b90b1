"""From keep ratios to keep probabilities to masks, and a network run under masks.

A mask multiplies the input-channel slices of every layer that reads a channel (its consumers). That
equals removing the channel exactly, whatever normalisation or activation lies between; BatchNorm
statistics stay those of the dense network; no module is rewritten. It also repairs the gradient:
with the mask between BatchNorm and ReLU, as in the DSA authors' released code, a dropped channel
gets none (ReLU'(0) = 0).
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dsa_core.channels import ChannelGraph, check_fits
from dsa_core.errors import ConfigError
from dsa_core.example import Call, tensors_in
from dsa_core.kernels import soft_topk
from dsa_core.kernels.segments import places, segment_ids
from dsa_core.masked_weights import MaskedWeights, consumer_sites
from dsa_core.surgery.verify import distance, noise
from dsa_core.training import isolated_rng, mode

Estimator = Literal["mean_field", "straight_through", "mixed", "relaxed"]
RELAXATION = 0.5  # temperature of relaxed masks
ODD = 1e-2  # of the largest output: no rounding


def keep_probs(
    b: Tensor, alpha: Tensor, graph: ChannelGraph, *, sharpness: float, floor: float = 0.0
) -> Tensor:
    """The probability that each channel is kept.

    p_i = sigmoid(beta2 (log b_i - log beta1)), with beta1 of each group set by sum_i p_i = alpha C.

    Args:
        b: importance > 0, shape (n,).
        alpha: keep ratio of every group in (0, 1], shape (K,); differentiable.
        sharpness: beta2 > 0; large is close to keeping the alpha C most important channels.
        floor: smallest probability, 0.01 in the authors' released code so that no channel is lost
            for good; the sum then exceeds alpha C slightly.

    Returns:
        p, shape (n,), with gradient to alpha.

    Source: Ning et al., DSA, ECCV 2020 (arXiv:2004.02164), sigmoid-log function and expectation
        condition.
    """
    k = alpha.to(b) * graph.sizes.to(b)
    p = soft_topk(b.log(), k, graph.offsets.to(b.device), temperature=1.0 / sharpness)
    return p.clamp_min(floor) if floor > 0 else p


def sample_mask(p: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw m_i ~ Bernoulli(p_i), shape of p; no gradient."""
    return torch.bernoulli(p.detach(), generator=generator)


def estimator_mask(
    p: Tensor, estimator: Estimator, *, generator: torch.Generator | None = None
) -> Tensor:
    """A mask through which a loss sends its gradient to p.

    Args:
        p: keep probabilities, shape (n,).
        estimator:
            "mean_field": the mask is p itself, so nothing is sampled;
            "straight_through": a Bernoulli sample, its gradient taken as that of p (the DSA
                authors' code);
            "mixed": each channel flips a coin between the two above. A channel is worth
                L(m = 1) - L(m = 0), the integral of the slope; the mean field reads it in the
                middle, straight-through at the ends, and where the loss is curved each is biased;
            "relaxed": the concrete distribution, sigmoid((logit p + logistic noise) / 0.5).
    """
    if estimator == "mean_field":
        return p
    if estimator == "straight_through":
        return sample_mask(p, generator) + (p - p.detach())  # the bracket is exactly 0
    if estimator == "mixed":
        coin = torch.bernoulli(torch.full_like(p, 0.5), generator=generator)
        return torch.where(coin.bool(), p, sample_mask(p, generator) + (p - p.detach()))
    if estimator == "relaxed":
        uniform = torch.rand(p.shape, generator=generator, device=p.device, dtype=p.dtype)
        eps = torch.finfo(p.dtype).eps
        logit = p.clamp(eps, 1 - eps).logit() + uniform.clamp(eps, 1 - eps).logit()
        return torch.sigmoid(logit / RELAXATION)
    raise ConfigError(f"estimator must be one of {get_args(Estimator)}, got {estimator!r}")


def top_channels(b: Tensor, counts: Tensor, graph: ChannelGraph) -> Tensor:
    """The `counts` (K,) most important channels of every group; ties go to the first.

    Returns:
        Which channels stay, bool, shape (n,), on the CPU.
    """
    place = places(b.cpu(), graph.offsets)
    return place < counts[segment_ids(graph.offsets)]


def masked_parameters(
    parameters: Mapping[str, Tensor], graph: ChannelGraph, mask: Tensor
) -> dict[str, Tensor]:
    """The weights of all consumers with their input slices multiplied by a mask (n,), by name.

    The mask may have any values; gradients reach it and the parameters, which are not changed. The
    parameters are those of the network that was traced: that is not checked here.
    """
    if mask.shape != (graph.n_channels,):
        raise ValueError(
            f"mask must have shape ({graph.n_channels},), one entry for each prunable channel; "
            f"got {tuple(mask.shape)}"
        )
    sites = consumer_sites(graph)
    if not sites:
        return {}
    extended = torch.cat([mask, mask.new_ones(1)])  # place -1: channels that always stay
    index = torch.cat([site.index for site in sites]).to(mask.device)
    parts = extended[index].split([len(site.index) for site in sites])
    pairs = [(site, parameters[site.name], part) for site, part in zip(sites, parts, strict=True)]
    return {site.name: w * part.to(w.dtype).reshape(site.shape) for site, w, part in pairs}


def masked_call(model: nn.Module, graph: ChannelGraph, mask: Tensor, example: Any) -> Any:
    """Run the network on an example, in any form that `trace` takes, under a mask (n,).

    Differentiable in the mask and the weights.

    Raises:
        SurgeryError: the network is not the one that was traced.
    """
    check_fits(model, graph)
    masked = masked_parameters(dict(model.named_parameters()), graph, mask)
    call = Call.of(example)
    return functional_call(model, masked, call.args, call.kwargs)


def cut_error(model: nn.Module, graph: ChannelGraph, keep: Tensor, pruned: nn.Module) -> float:
    """How far a cut network is from the masked one, on random inputs, in evaluation mode.

    The largest difference, relative to the largest entry of its output. 0 where the masked network
    cannot run on such inputs (all that is known of them is their form), infinite where the cut
    network alone cannot, or returns another number of tensors.
    """
    weight = next(p for p in model.parameters() if p.is_floating_point())

    def outputs(run: Callable[[], Any]) -> list[Tensor]:
        torch.manual_seed(0)
        return tensors_in(run())

    with (
        isolated_rng(weight.device),
        torch.no_grad(),
        mode(model, training=False),
        mode(pruned, training=False),
    ):
        call = Call.zeros(graph.example, model).map(partial(noise, dtype=weight.dtype))
        mask = keep.to(weight.device, torch.float32)
        try:
            wanted = outputs(lambda: masked_call(model, graph, mask, call.map(torch.clone)))
        except Exception:
            return 0.0
        try:
            found = outputs(lambda: call(pruned))
        except Exception:
            return float("inf")
    if len(found) != len(wanted):
        return float("inf")
    sizes = [float(t.double().nan_to_num(0.0, 0.0, 0.0).abs().max()) for t in wanted if t.numel()]
    pairs = zip(wanted, found, strict=True)
    return max((distance(a, b, least=max(1e-30, *sizes)) for a, b in pairs), default=0.0)


def check_cut(model: nn.Module, graph: ChannelGraph, keep: Tensor, pruned: nn.Module) -> None:
    """Warn if a cut network is not the masked one: tracing has tried other widths than these."""
    error = cut_error(model, graph, keep, pruned)
    if error > ODD:
        warnings.warn(
            "the cut network computes something else than the masked one (on random inputs, "
            f"{error:.2g} of the largest output apart): its code may depend on widths. What it "
            "scores is its own; floors of 1 keep groups whole",
            stacklevel=3,
        )


@contextmanager
def masked(model: nn.Module, graph: ChannelGraph, mask: Tensor) -> Iterator[nn.Module]:
    """The network under a mask for the length of a block: its weights are masked in place.

    The unmasked weights come back at the end, also when the body raises.
    """
    check_fits(model, graph)
    parameters = dict(model.named_parameters())
    weights = MaskedWeights(parameters, consumer_sites(graph), graph.n_channels)
    try:
        weights.put_on(mask)
        yield model
    finally:
        weights.close()
