"""What each stage of training minimises: functions of a model and a batch.

Each returns an :class:`Outcome`. A regression loss of its predictions against the target
is added to its penalty by the caller, which knows the measurements and sample weights.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from regmask_sk._processes import ALONE, Processes
from regmask_sk.distributions import GateDistribution
from regmask_sk.losses import Continuity, continuity_penalty, transition_penalty
from regmask_sk.masking import MaskedExpressionModel, MaskKind, Room
from regmask_sk.ops.budget import following_step, step_to_share
from regmask_sk.ops.gates import logistic_noise, random_block_masks, straight_through

ANNEALED = 0.6  # of the generator's stage, after which the share is the budget
OPEN_SHARE = 0.25  # of the windows that the predictor's stage leaves fully open, in the end
OPEN_UNTIL = (0.2, 0.5)  # of that stage: all windows open until then, the share falls until then
RANDOM_SHARE = 0.3  # of the windows of the fine-tuning stage that get random masks
FINETUNE_NOISE = 0.3  # of the samples of that stage, against 1 in the generator's
SOFT_SHARE = 0.5  # of the windows that are read under means, the others under 0/1 samples
LEAK = 1e-6  # what a closed gate lets through in training
VALIDATION_SEED = 2025


class Outcome(NamedTuple):
    """Result of a stage's forward pass.

    Attributes
    ----------
    predictions : list of Tensor of shape (batch, n_outputs)
        Each is compared with the target.
    target : Tensor of shape (batch, n_outputs) or None
        ``None`` stands for the measured target.
    penalty : Tensor of shape ()
        Added to the regression loss.
    kept : Tensor of shape ()
        Mean share of the bases that the masks keep.
    weights : tuple of float, optional
        Weights of the predictions' losses in their sum; by default they are averaged.
    """

    predictions: list[Tensor]
    target: Tensor | None
    penalty: Tensor
    kept: Tensor
    weights: tuple[float, ...] | None = None


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


class _Held(NamedTuple):
    """Gates of a batch at the budget: as they are drawn, and their means, ``(batch, T)``."""

    drawn: Tensor
    means: Tensor


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


def _held(
    model: MaskedExpressionModel,
    gates: GateDistribution,
    room: Room | None,
    budget: float,
    correlation: float,
    *,
    noise: float,
    processes: Processes,
) -> _Held:
    """Draw the gates of a batch so that they keep the budget, neither more nor less.

    For half of the windows they are means, for the others 0/1 samples that pass the gradient
    of a relaxed one: a fitted model is read in both ways; with relaxed samples alone, the
    information that their values between 0 and 1 carry would be missing from its hard masks.
    All gates of the batch are moved by one step, one for the means and one for the samples,
    as a fitted model's are by its two shifts. The step follows the gates in the gradient,
    so that to open one is to close others. The batch is that of all processes.
    """
    logits = gates.log_odds
    draw = noise * logistic_noise(logits, correlation / model.mask_resolution)

    def means(step: Tensor) -> Tensor:
        return gates.moved(step).mean

    def samples(step: Tensor) -> Tensor:
        return gates.moved(step).sample(draw)

    def kept(each: Tensor) -> Tensor:
        return processes.mean(model.kept_share(each, room))

    with torch.no_grad():
        soft = step_to_share(lambda step: float(kept(means(logits.new_tensor(step)))), budget)
        hard = step_to_share(
            lambda step: float(kept((samples(logits.new_tensor(step)) > 0.5).to(logits.dtype))),
            budget,
        )
    followed = following_step(soft, lambda step: kept(means(step)), logits)
    relaxed = samples(followed + (hard - soft))
    sampled = straight_through(relaxed, (relaxed > 0.5).to(relaxed.dtype))
    held = means(followed)
    is_soft = torch.rand(len(relaxed), 1, device=relaxed.device) < SOFT_SHARE
    return _Held(torch.where(is_soft, held, sampled), held)


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


def annealed_budget(budget: float, progress: float, start: float) -> float:
    """Share of bases to keep at a point of the generator's stage, which begins at `start`.

    Examples
    --------
    >>> [annealed_budget(0.1, progress, start=0.5) for progress in (0.0, 0.6, 1.0)]
    [0.5, 0.1, 0.1]
    """
    start = max(start, budget)
    return budget + (start - budget) * (1.0 - min(progress / ANNEALED, 1.0))


def generator_outcome(
    model: MaskedExpressionModel,
    x: Tensor,
    covariates: Tensor,
    forced: Tensor | None = None,
    *,
    budget: float,
    continuity_weight: float = 0.0,
    continuity: Continuity = "difference",
    gate_correlation: float = 0.0,
    processes: Processes = ALONE,
) -> Outcome:
    """Keep the open window's prediction with a budget of bases; the predictor is fixed.

    The predictor runs in evaluation mode, so that dropout is no noise in the gradient
    that reaches the gates.
    """
    model.predictor.eval()
    with torch.no_grad():
        target = model.predictor(x, model.open_window(x, forced), covariates)
    gates = model.generator(x)
    room = model.room(forced)
    held = _held(model, gates, room, budget, gate_correlation, noise=1.0, processes=processes)
    predicted = model.predictor(x, model.expand(_leaking(held.drawn), forced), covariates)
    penalty = continuity_weight * _continuity(model, held.means, continuity)
    return Outcome([predicted], target, penalty, model.kept_share(held.means, room).mean())


def finetune_outcome(
    model: MaskedExpressionModel,
    x: Tensor,
    covariates: Tensor,
    forced: Tensor | None = None,
    *,
    budget: float,
    continuity_weight: float = 0.0,
    continuity: Continuity = "difference",
    gate_correlation: float = 0.0,
    processes: Processes = ALONE,
) -> Outcome:
    """Train both under the generator's masks mixed with random ones.

    The random masks keep the predictor honest: it still answers for masks that know nothing
    of the target.
    """
    gates = model.generator(x)
    random = _random_masks(model, x, OPEN_SHARE)
    draw = torch.rand(len(x), 1, device=x.device)
    room = model.room(forced)
    held = _held(
        model, gates, room, budget, gate_correlation, noise=FINETUNE_NOISE, processes=processes
    )
    drawn = torch.where(draw < RANDOM_SHARE, random, held.drawn)
    predicted = model.predictor(x, model.expand(_leaking(drawn), forced), covariates)
    penalty = continuity_weight * _continuity(model, held.means, continuity)
    return Outcome([predicted], None, penalty, model.kept_share(held.means, room).mean())


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
        drawn = straight_through(drawn, model.topk_of_sample(drawn, gates, room))
    predicted = model.predictor(x, model.expand(_leaking(drawn), forced), covariates)
    penalty = kl_weight * gates.kl(prior_mean, prior_concentration).mean()
    if continuity_weight > 0.0:
        penalty = penalty + continuity_weight * _continuity(model, gates.mean, continuity)
    return Outcome([predicted], None, penalty, model.kept_share(drawn, room).mean())


def budget_shift(
    model: MaskedExpressionModel,
    openness: Tensor,
    budget: float,
    kind: Literal["soft", "hard"],
    room: Room | None = None,
    processes: Processes = ALONE,
) -> float:
    """Shift of the openness by which masks of a kind keep a budget, found by bisection.

    Parameters
    ----------
    model : MaskedExpressionModel
        Gives the bases that each gate decides about.
    openness : Tensor of shape (n, T)
        Log-odds of the gates of `n` windows.
    budget : float
        Wanted mean share of kept bases, promoter included.
    kind : {"soft", "hard"}
        Kind of mask.
    room : Room, optional
        What the gates of each of the windows decide about, where that is not the same for all.
    processes : Processes, optional
        Those among which the windows are shared.

    Returns
    -------
    float
        The smallest shift, to 1e-4, that keeps at least the budget.
    """

    def share(step: float) -> float:
        shifted = openness + step
        gates = torch.sigmoid(shifted) if kind == "soft" else (shifted > 0).to(shifted.dtype)
        return float(processes.mean(model.kept_share(gates, room)))

    return step_to_share(share, budget)


def validation_outcome(
    model: MaskedExpressionModel,
    x: Tensor,
    covariates: Tensor,
    forced: Tensor | None = None,
    *,
    stage: str,
    kind: MaskKind,
    budget: float,
    processes: Processes = ALONE,
) -> Outcome:
    """Predictions by which epochs of a stage are compared.

    The predictor's stage is judged on the open window and on random masks, the same ones
    in each epoch; the others on the masks that a fitted model would use. Where a budget is
    to be held, each batch is held at it, so that no epoch wins by keeping more.
    """
    zero, room = x.new_zeros(()), model.room(forced)
    if stage == "predictor":
        random = torch.Generator().manual_seed(VALIDATION_SEED + processes.rank)
        gates = _random_masks(model, x, 0.0, random)
        masks = [model.open_window(x, forced), model.expand(gates, forced)]
        predictions = [model.predict(x, mask, covariates) for mask in masks]
        return Outcome(predictions, None, zero, model.kept_share(gates, room).mean())
    openness = model.openness(x)
    if stage == "joint" or kind == "topk":
        gates = model.gates(openness, kind, room)
    else:
        shifted = openness + budget_shift(model, openness, budget, kind, room, processes)
        gates = torch.sigmoid(shifted) if kind == "soft" else (shifted > 0).to(shifted.dtype)
    predicted = model.predict(x, model.expand(gates, forced), covariates)
    return Outcome([predicted], None, zero, model.kept_share(gates, room).mean())
