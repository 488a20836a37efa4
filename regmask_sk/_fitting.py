"""From the parameters of a masked model, and X, to the model and the net that trains it."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Literal, cast

import pandas as pd
from torch import nn

from regmask_sk._base import WindowArray
from regmask_sk._batches import WindowDataset, off_chromosome, open_in_any_case
from regmask_sk._model import build_model, promoter_window
from regmask_sk._network import NetworkRegressor
from regmask_sk._parameters import check_evidence_tracks
from regmask_sk._plan import MaskSettings, Stage
from regmask_sk._preparation import TrainingData
from regmask_sk._regions import ForcedRegions, Regions
from regmask_sk._training import RegMaskNet, calibration_bytes
from regmask_sk.distributions import DistributionName
from regmask_sk.generator import Evidence
from regmask_sk.losses import Continuity
from regmask_sk.masking import MaskedExpressionModel
from regmask_sk.windows import Windows

_REGIONS = ("closed_regions", "open_regions")


class MaskedFit(NetworkRegressor):
    """Base of estimators whose model is a masked one.

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
    generator_epochs: int | None
    finetune_epochs: int | None

    net_: RegMaskNet

    _kept_attributes: ClassVar[tuple[str, ...]] = (
        *NetworkRegressor._kept_attributes,
        "closed_regions_",
        "open_regions_",
    )
    _shape_parameters: ClassVar[tuple[str, ...]] = (
        "backbone", "training", "gate_distribution", "evidence", "resolution", "mask_resolution",
        "d_model", "n_layers",
    )  # fmt: skip
    _history_columns: ClassVar[dict[str, str]] = {
        "epoch": "epoch",
        "stage": "stage",
        "train_loss": "train_loss",
        "valid_loss": "valid_loss",
        "train_kept": "train_kept",
        "valid_kept": "valid_kept",
        "dur": "seconds",
    }

    def _note_windows(self, X: WindowArray) -> None:
        """Note the regions that masks close and open, as the parameters name them."""
        if self.evidence != "learned":
            check_evidence_tracks(X)
        for name in _REGIONS:
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

    def _dataset_options(self, X: WindowArray) -> dict[str, Any]:
        return {"forced": self._forced(X)}

    def _forced(self, X: WindowArray) -> ForcedRegions | None:
        """Regions of the fit, and what is off the chromosome: no base is there to be kept."""
        # Models that an earlier version saved have neither.
        closed, opened = (getattr(self, f"{name}_", None) or {} for name in _REGIONS)
        names = [name for name, given in zip(_REGIONS, (closed, opened), strict=True) if given]
        if not isinstance(X, Windows):
            if not names:
                return None
            raise ValueError(
                f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} given in coordinates "
                "of the genome, but X is an array. Pass Windows (from TSSWindows), or fit without "
                "regions."
            )
        beyond = off_chromosome(X)
        if not names and not beyond.by_chrom:
            return None
        return ForcedRegions(Regions(closed).joined(beyond), Regions(opened).without(beyond))

    def _check_training_rows(self, train: WindowDataset) -> None:
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

    def _end_training(self, data: TrainingData) -> None:
        """Set the shifts by which masks keep the budget."""
        self.net_.calibrate(data.train)

    def _bytes_after_stages(self, n_windows: int, length: int) -> float:
        """Bytes by which the budget is met: gates of a sample of the windows, and copies."""
        if self.training == "joint":
            return 0.0
        base_pairs_a_gate = -(-self.n_features_in_ // self.net_.module_.n_gates)
        return calibration_bytes(n_windows, -(-length // base_pairs_a_gate))

    def _make_net(
        self, module: nn.Module, settings: dict[str, Any], plan: tuple[Stage, ...] | None
    ) -> RegMaskNet:
        weight = self.continuity_weight
        return RegMaskNet(
            cast(MaskedExpressionModel, module),
            settings=MaskSettings(
                **settings,
                stages=self._stages() if plan is None else plan,
                mask=self.mask,
                sparsity=self.sparsity,
                continuity_weight=(
                    (0.0 if self.training == "joint" else 0.1) if weight is None else weight
                ),
                continuity=self.continuity,
                gate_correlation=self.gate_correlation,
                kl_weight=self.kl_weight,
                prior_mean=self.prior_mean,
                prior_concentration=self.prior_concentration,
            ),
            batch_size=self.batch_size_,
            n_workers=self.n_workers,
            device=self.device_,
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
