"""How a fit is prepared: data, model and net for the parameters that an estimator has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from torch import nn

from regmask_sk._base import WindowArray, WindowEstimator, resolve_device
from regmask_sk._batches import WindowDataset, open_in_any_case
from regmask_sk._model import build_model, promoter_window
from regmask_sk._parameters import check_evidence_tracks
from regmask_sk._plan import Settings, Stage
from regmask_sk._regions import ForcedRegions, Regions
from regmask_sk._training import RegMaskNet
from regmask_sk.backbones.mamba import SelectiveStateSpace
from regmask_sk.distributions import DistributionName
from regmask_sk.losses import Continuity, RegressionLoss, regression_loss
from regmask_sk.masking import Evidence, MaskedExpressionModel
from regmask_sk.ops.selective_scan import scan_backend
from regmask_sk.windows import Windows

_REGIONS = ("closed", "open")


class TrainingData:
    """Training and validation rows of a fit."""

    def __init__(
        self, train: WindowDataset, valid: WindowDataset | None, loss: RegressionLoss
    ) -> None:
        self.train = train
        self.valid = valid
        self.loss = loss

    @property
    def constant_loss(self) -> float:
        """Loss of predicting the training rows' mean for those that are judged."""
        judged = self.train if self.valid is None else self.valid
        target, weight = torch.from_numpy(judged.y), torch.from_numpy(judged.weight)
        return regression_loss(torch.zeros_like(target), target, weight, loss=self.loss).item()


class MaskedFit(WindowEstimator):
    """Base of estimators whose model is a masked one: from parameters and X to a net.

    The parameters are those of ``RegMaskRegressor``, which documents them and sets them.
    """

    backbone: str | type[nn.Module]
    mask: Literal["soft", "hard", "topk"]
    training: Literal["decoupled", "joint"]
    gate_distribution: DistributionName | Literal["auto"]
    evidence: Evidence
    sparsity: float
    promoter_length: int | Literal["auto"]
    closed_regions: str | os.PathLike[str] | pd.DataFrame | None
    open_regions: str | os.PathLike[str] | pd.DataFrame | None
    resolution: int
    mask_resolution: int | None
    covariates: Sequence[str]
    reverse_complement: Literal["none", "augment", "ph", "ps"]
    d_model: int
    n_layers: int
    dropout: float
    checkpointing: bool
    continuity_weight: float | None
    continuity: Continuity
    gate_correlation: float
    kl_weight: float
    prior_mean: float
    prior_concentration: float
    loss: Literal["squared_error", "huber"]
    max_epochs: int
    generator_epochs: int | None
    finetune_epochs: int | None
    patience: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    gradient_clip: float
    ema_decay: float
    validation_chroms: Sequence[str] | None
    validation_fraction: float
    n_workers: int
    device: str
    amp: bool | Literal["auto"]
    random_state: int | np.random.RandomState | None

    net_: RegMaskNet
    _seed: int

    def _prepare(
        self,
        X: WindowArray,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        groups: ArrayLike | None,
        *,
        reset: bool = True,
    ) -> TrainingData:
        """Standardise and split what a fit is given."""
        if self.evidence != "learned":
            check_evidence_tracks(X)
        targets = self._check_targets(X, y)
        weight = self._check_weights(X, sample_weight)
        covariates = self._covariate_table(X, self.covariates)
        # One seed for all calls: another split would train on the rows that judge.
        seed = (
            int(check_random_state(self.random_state).randint(2**31 - 1)) if reset else self._seed
        )
        train, valid = self._split_validation(
            X,
            validation_chroms=self.validation_chroms,
            validation_fraction=self.validation_fraction,
            groups=groups,
            seed=seed,
        )
        if reset:
            self._seed = seed
            self._target_ndim = np.asarray(y).ndim
            if not weight[train].any():
                raise ValueError(
                    "sample_weight is 0 for all the training rows; the others are held out for "
                    "validation. Hold out others, or set validation_fraction=0."
                )
            self.target_mean_ = np.average(targets[train], axis=0, weights=weight[train])
            self.target_scale_ = _scale(targets[train], weight[train])
            self.covariate_mean_ = covariates[train].mean(axis=0)
            self.covariate_scale_ = _scale(covariates[train])
        elif targets.shape[1] != len(self.target_mean_):
            raise ValueError(
                f"y has {targets.shape[1]} outputs, but the first call of partial_fit had "
                f"{len(self.target_mean_)}."
            )
        standard = ((targets - self.target_mean_) / self.target_scale_).astype(np.float32)
        known = self._standard_covariates(covariates)
        augmented = self.reverse_complement in ("augment", "ph")
        complement = self._complement(X) if self.reverse_complement != "none" else None
        self._channel_complement = complement
        parts = []
        for rows, augment in ((train, True), (valid, False)):
            parts.append(
                WindowDataset(
                    X[rows],
                    known[rows],
                    standard[rows],
                    weight[rows],
                    forced=self._forced(X),
                    augment=augment,
                    complement=complement if augmented else None,
                )
            )
        self._check_room(parts[0])
        return TrainingData(parts[0], parts[1] if len(valid) else None, self.loss)

    def _read_regions(self, X: WindowArray) -> None:
        """Note the regions that masks close and open, as the parameters name them."""
        for name in ("closed_regions", "open_regions"):
            given, found = getattr(self, name), None
            if given is not None:
                found = Regions.read(given, name).by_chrom
                if isinstance(X, Windows) and not set(found) & set(X.loci["chrom"]):
                    raise ValueError(
                        f"{name} shares no chromosome with X: it has {sorted(found)[:8]}, X has "
                        f"{sorted(set(X.loci['chrom']))[:8]}. Name chromosomes alike, or leave "
                        f"{name} out."
                    )
            setattr(self, f"{name}_", found)

    def _forced(self, X: WindowArray) -> ForcedRegions | None:
        """Regions of the fit, for windows that lie somewhere on the genome."""
        names = [
            name for name in ("closed_regions", "open_regions") if getattr(self, f"{name}_", None)
        ]
        if not names:
            return None
        if not isinstance(X, Windows):
            raise ValueError(
                f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} given in coordinates "
                "of the genome, but X is an array. Pass Windows (from TSSWindows), or fit without "
                "regions."
            )
        return ForcedRegions(*(Regions(getattr(self, f"{n}_regions_") or {}) for n in _REGIONS))

    def _check_room(self, train: WindowDataset) -> None:
        """Refuse regions that leave no budget for gates, before any training."""
        if train.forced is None or self.training == "joint" or not isinstance(train.x, Windows):
            return
        promoter = promoter_window(self.n_features_in_, self.promoter_length, self.sparsity)
        share = open_in_any_case(train.x, train.forced, promoter)
        if share > self.sparsity:
            raise ValueError(
                f"open_regions and the promoter window are {share:.1%} of the training windows, "
                f"more than the {self.sparsity:.1%} that may be kept. Leave out regions, shorten "
                "promoter_length, lengthen the window, or raise sparsity."
            )

    def _standard_covariates(self, covariates: NDArray[np.float64]) -> NDArray[np.float32]:
        return ((covariates - self.covariate_mean_) / self.covariate_scale_).astype(np.float32)

    def _build(self, constant_loss: float, plan: tuple[Stage, ...] | None = None) -> None:
        """Make the torch model and its net for the shapes that X has."""
        self.device_ = resolve_device(self.device)
        self._epochs_done = 0
        with torch.random.fork_rng(devices=self._cuda_devices()):
            torch.manual_seed(self._seed)
            module = self._make_module(n_outputs=len(self.target_mean_))
        scans = any(isinstance(part, SelectiveStateSpace) for part in module.modules())
        self.scan_backend_ = scan_backend(self.device_) if scans else None
        self.net_ = RegMaskNet(
            module,
            settings=self._settings(constant_loss, plan),
            batch_size=self.batch_size,
            n_workers=self.n_workers,
            device=self.device_,
        )

    def _build_from_last(self, constant_loss: float, plan: tuple[Stage, ...] | None = None) -> None:
        """Make a new net that has the weights and the history of the last one."""
        last, epochs_done = self.net_, self._epochs_done
        self._build(constant_loss, plan)
        try:
            self.net_.take_over(last.ready_module.state_dict(), list(last.history))
        except RuntimeError as error:
            self.net_ = last
            raise ValueError(
                "warm_start=True goes on from the weights of the last fit, but with the present "
                "parameters the model has another shape. Put backbone, training, "
                "gate_distribution, evidence, resolution, mask_resolution, d_model and n_layers "
                "back, or set warm_start=False."
            ) from error
        self._epochs_done = epochs_done

    def _settings(self, constant_loss: float, plan: tuple[Stage, ...] | None) -> Settings:
        return Settings(
            stages=self._stages() if plan is None else plan,
            mask=self.mask,
            sparsity=self.sparsity,
            loss=self.loss,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            gradient_clip=self.gradient_clip,
            ema_decay=self.ema_decay,
            patience=self.patience,
            continuity_weight=(
                (0.0 if self.training == "joint" else 0.1)
                if self.continuity_weight is None
                else self.continuity_weight
            ),
            continuity=self.continuity,
            gate_correlation=self.gate_correlation,
            kl_weight=self.kl_weight,
            prior_mean=self.prior_mean,
            prior_concentration=self.prior_concentration,
            constant_loss=constant_loss,
            amp=self.device_.startswith("cuda") if self.amp == "auto" else bool(self.amp),
        )

    def _stages(self) -> tuple[Stage, ...]:
        if self.training == "joint":
            return (Stage("joint", self.max_epochs),)
        third = -(-self.max_epochs // 3)
        generator = third if self.generator_epochs is None else self.generator_epochs
        finetune = third if self.finetune_epochs is None else self.finetune_epochs
        stages = (
            Stage("predictor", self.max_epochs),
            Stage("generator", generator),
            Stage("finetune", finetune),
        )
        return tuple(stage for stage in stages if stage.n_epochs > 0)

    def _make_module(self, n_outputs: int) -> MaskedExpressionModel:
        """Build the torch model; a subclass with another model overrides this."""
        length = self.n_features_in_
        promoter = promoter_window(
            length, self.promoter_length, self.sparsity if self.training == "decoupled" else 1.0
        )
        self.promoter_columns_ = slice(*promoter)
        if self.gate_correlation > length:
            raise ValueError(
                f"gate_correlation={self.gate_correlation} is longer than the window of {length} "
                "bp. Give a length in base pairs within it, such as that of an element."
            )
        return build_model(
            backbone=self.backbone,
            channel_names=self.channel_names_in_,
            n_channels=self.n_channels_in_,
            length=length,
            promoter=promoter,
            n_outputs=n_outputs,
            n_covariates=len(self.covariate_mean_),
            joint=self.training == "joint",
            gate_distribution=self._distribution_name,
            evidence=self.evidence,
            sparsity=self.sparsity,
            resolution=self.resolution,
            mask_resolution=self.mask_resolution,
            d_model=self.d_model,
            n_layers=self.n_layers,
            dropout=self.dropout,
            checkpointing=self.checkpointing,
            reverse_complement=self.reverse_complement,
            complement=self._channel_complement,
        )

    @property
    def _distribution_name(self) -> DistributionName:
        if self.gate_distribution != "auto":
            return self.gate_distribution
        return "beta" if self.training == "joint" else "relaxed_bernoulli"

    def _train_epoch(self, data: TrainingData) -> None:
        """One epoch with random numbers of its own, so that fit and partial_fit agree."""
        torch.manual_seed(self._seed + self._epochs_done)
        self.net_.train_epoch(data.train, data.valid)
        self._epochs_done += 1

    def _cuda_devices(self) -> list[int]:
        return list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []


def _scale(values: NDArray[np.float64], weight: NDArray | None = None) -> NDArray[np.float64]:
    """Take the standard deviation of each column, 1 where it is 0 but for rounding."""
    share = np.ones(len(values)) if weight is None else weight.astype(np.float64)
    share /= share.sum()
    mean = share @ values
    scale = np.sqrt(share @ np.square(values - mean))
    return np.where(scale > 1e-12 * np.abs(mean), scale, 1.0)
