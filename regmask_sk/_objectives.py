"""What each stage of training minimises: functions of a model and a batch.

Each returns an :class:`Outcome`. A regression loss of its predictions against the target
is added to its penalty by the caller, which knows the measurements and sample weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from regmask_sk.distributions import GateDistribution
from regmask_sk.losses import Continuity, budget_penalty, continuity_penalty, transition_penalty
from regmask_sk.masking import MaskedExpressionModel, MaskKind, Room
from regmask_sk.ops.gates import logistic_noise, random_block_masks, straight_through

START_SHARE = 0.5  # share of bases that the generator starts from
ANNEALED = 0.6  # of the generator's stage, after which the share is the budget
OPEN_SHARE = 0.25  # of the windows that the predictor's stage leaves fully open, in the end
OPEN_UNTIL = (0.2, 0.5)  # of that stage: all windows open until then, the share falls until then
RANDOM_SHARE = 0.3  # of the windows of the fine-tuning stage that get random masks
FINETUNE_NOISE = 0.3  # of the samples of that stage, against 1 in the generator's
LEAK = 1e-6  # what a closed gate lets through in training
VALIDATION_SEED = 2025


class Outcome(NamedTuple):
    """Result of a stage's forward pass.

    Attributes
    ----------
    predictions : list of Tensor of shape (batch, n_outputs)
        Each is compared with the target; their losses are averaged.
    target : Tensor of shape (batch, n_outputs) or None
        ``None`` stands for the measured target.
    penalty : Tensor of shape ()
        Added to the regression loss.
    kept : Tensor of shape ()
        Mean share of the bases that the masks keep.
    """

    predictions: list[Tensor]
    target: Tensor | None
    penalty: Tensor
    kept: Tensor


def _leaking(gates: Tensor) -> Tensor:
    """Let a closed gate show what it hides to the gradient, and to nothing else."""
    return gates + LEAK * (1.0 - gates)


def _sampled(
    model: MaskedExpressionModel,
    gates: GateDistribution,
    correlation: float,
    *,
    noise: float = 1.0,
) -> Tensor:
    """Sample gates, over `correlation` base pairs together; noise of 1 gives their distribution."""
    if noise == 1.0 and correlation == 0.0:
        return gates.sample()
    return gates.sample(noise * logistic_noise(gates.log_odds, correlation / model.mask_resolution))


def _soft_or_hard(
    model: MaskedExpressionModel, gates: GateDistribution, correlation: float, *, noise: float
) -> Tensor:
    """Gates of a batch as means, for half of the windows, and as 0/1 samples for the others.

    The samples pass the gradient of a relaxed one. A fitted model is read in both ways; with
    relaxed samples alone, the information that their values between 0 and 1 carry would be
    missing from its hard masks.
    """
    relaxed = _sampled(model, gates, correlation, noise=noise)
    hard = straight_through(relaxed, (relaxed > 0.5).to(relaxed.dtype))
    is_soft = torch.rand(len(relaxed), 1, device=relaxed.device) < 0.5
    return torch.where(is_soft, gates.mean, hard)


def _random_masks(
    model: MaskedExpressionModel,
    x: Tensor,
    share: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Random gates for windows, in blocks whose widths in base pairs are those of tokens."""
    masks = random_block_masks(
        len(x),
        model.n_gates,
        open_share=share,
        gates_per_token=model.resolution // model.mask_resolution,
        generator=generator,
    )
    return masks.to(x.device)


def _continuity(model: MaskedExpressionModel, means: Tensor, continuity: Continuity) -> Tensor:
    """Edges a token: an edge of the mask costs the same at any grain."""
    penalty = transition_penalty if continuity == "transitions" else continuity_penalty
    return penalty(means) * (model.resolution // model.mask_resolution)


def _gate_penalty(
    model: MaskedExpressionModel,
    gates: GateDistribution,
    room: Room | None,
    budget: float,
    multiplier: float,
    continuity_weight: float,
    continuity: Continuity,
) -> tuple[Tensor, Tensor]:
    """Penalty of the gates' means, and the mean share of bases that they keep."""
    means = gates.mean
    kept = model.kept_share(means, room)
    penalty = budget_penalty(kept, budget, multiplier)
    return penalty + continuity_weight * _continuity(model, means, continuity), kept.mean()


def open_share(progress: float) -> float:
    """Share of windows left fully open at a point of the predictor's stage.

    What drives expression is found sooner in open windows; masks come in once it is.

    Examples
    --------
    >>> open_share(0.0), open_share(0.5), open_share(1.0)
    (1.0, 0.25, 0.25)
    """
    first, last = OPEN_UNTIL
    fallen = min(max((progress - first) / (last - first), 0.0), 1.0)
    return 1.0 - (1.0 - OPEN_SHARE) * fallen


def predictor_outcome(
    model: MaskedExpressionModel,
    x: Tensor,
    covariates: Tensor,
    forced: Tensor | None = None,
    *,
    progress: float,
) -> Outcome:
    """Predict under random masks, which know nothing of the target."""
    gates = _random_masks(model, x, open_share(progress))
    predicted = model.predictor(x, model.expand(_leaking(gates), forced), covariates)
    kept = model.kept_share(gates, model.room(forced)).mean()
    return Outcome([predicted], None, x.new_zeros(()), kept)


def annealed_budget(budget: float, progress: float) -> float:
    """Share of bases to keep at a point of the generator's stage.

    Examples
    --------
    >>> annealed_budget(0.1, 0.0), annealed_budget(0.1, 0.6), annealed_budget(0.1, 1.0)
    (0.5, 0.1, 0.1)
    """
    start = max(START_SHARE, budget)
    return budget + (start - budget) * (1.0 - min(progress / ANNEALED, 1.0))


def generator_outcome(
    model: MaskedExpressionModel,
    x: Tensor,
    covariates: Tensor,
    forced: Tensor | None = None,
    *,
    budget: float,
    multiplier: float,
    continuity_weight: float = 0.0,
    continuity: Continuity = "difference",
    gate_correlation: float = 0.0,
) -> Outcome:
    """Keep the open window's prediction with a budget of bases; the predictor is fixed.

    The predictor runs in evaluation mode, so that dropout is no noise in the gradient
    that reaches the gates.
    """
    model.predictor.eval()
    with torch.no_grad():
        target = model.predictor(x, model.open_window(x, forced), covariates)
    gates = model.generator(x)
    drawn = _soft_or_hard(model, gates, gate_correlation, noise=1.0)
    predicted = model.predictor(x, model.expand(_leaking(drawn), forced), covariates)
    penalty, kept = _gate_penalty(
        model, gates, model.room(forced), budget, multiplier, continuity_weight, continuity
    )
    return Outcome([predicted], target, penalty, kept)


def finetune_outcome(
    model: MaskedExpressionModel,
    x: Tensor,
    covariates: Tensor,
    forced: Tensor | None = None,
    *,
    budget: float,
    multiplier: float,
    continuity_weight: float = 0.0,
    continuity: Continuity = "difference",
    gate_correlation: float = 0.0,
) -> Outcome:
    """Train both under the generator's masks mixed with random ones.

    The random masks keep the predictor honest: it still answers for masks that know nothing
    of the target.
    """
    gates = model.generator(x)
    random = _random_masks(model, x, OPEN_SHARE)
    draw = torch.rand(len(x), 1, device=x.device)
    own = _soft_or_hard(model, gates, gate_correlation, noise=FINETUNE_NOISE)
    drawn = torch.where(draw < RANDOM_SHARE, random, own)
    predicted = model.predictor(x, model.expand(_leaking(drawn), forced), covariates)
    penalty, kept = _gate_penalty(
        model, gates, model.room(forced), budget, multiplier, continuity_weight, continuity
    )
    return Outcome([predicted], None, penalty, kept)


def joint_outcome(
    model: MaskedExpressionModel,
    x: Tensor,
    covariates: Tensor,
    forced: Tensor | None = None,
    *,
    kind: MaskKind,
    kl_weight: float,
    prior_mean: float,
    prior_concentration: float,
    continuity_weight: float = 0.0,
    continuity: Continuity = "difference",
    gate_correlation: float = 0.0,
) -> Outcome:
    """Predict under sampled gates; penalise their divergence from the prior.

    Su et al. (2025), eq. 5. A hard or top-k mask is 0/1 in forward and passes the
    gradient of the sample, so that the prediction loss reaches the generator.
    """
    gates: GateDistribution = model.generator(x)
    drawn, room = _sampled(model, gates, gate_correlation), model.room(forced)
    if kind == "hard":
        drawn = straight_through(drawn, (drawn >= 0.5).to(drawn.dtype))
    elif kind == "topk":
        drawn = straight_through(drawn, model.topk_gates(torch.logit(drawn.detach(), 1e-6), room))
    predicted = model.predictor(x, model.expand(_leaking(drawn), forced), covariates)
    penalty = kl_weight * gates.kl(prior_mean, prior_concentration).mean()
    if continuity_weight > 0.0:
        penalty = penalty + continuity_weight * _continuity(model, gates.mean, continuity)
    return Outcome([predicted], None, penalty, model.kept_share(drawn, room).mean())


def validation_outcome(
    model: MaskedExpressionModel,
    x: Tensor,
    covariates: Tensor,
    forced: Tensor | None = None,
    *,
    stage: str,
    kind: MaskKind,
) -> Outcome:
    """Predictions by which epochs of a stage are compared.

    The predictor's stage is judged on the open window and on random masks, the same ones
    in each epoch; the others on the masks that a fitted model would use.
    """
    zero, room = x.new_zeros(()), model.room(forced)
    if stage == "predictor":
        random = torch.Generator().manual_seed(VALIDATION_SEED)
        gates = _random_masks(model, x, 0.0, random)
        masks = [model.open_window(x, forced), model.expand(gates, forced)]
        predictions = [model.predict(x, mask, covariates) for mask in masks]
        return Outcome(predictions, None, zero, model.kept_share(gates, room).mean())
    gates = model.gates(model.openness(x), kind, room)
    predicted = model.predict(x, model.expand(gates, forced), covariates)
    return Outcome([predicted], None, zero, model.kept_share(gates, room).mean())
