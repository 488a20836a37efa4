"""GraphReg: convolutions from bases to bins, and attention between bins that are in contact."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np

from regmask_sk._base import WindowArray
from regmask_sk._contact_maps import CoolerReader
from regmask_sk._model import SEQUENCE_CHANNELS, among, channel_roles
from regmask_sk._text_files import read_bedpe
from regmask_sk.backbones.strands import SharedStrands
from regmask_sk.baselines._bin_tower import BinLayout, BinTower
from regmask_sk.baselines._contact_graph import (
    ContactGraph,
    Contacts,
    LoopContacts,
    MapContacts,
    NearContacts,
)
from regmask_sk.baselines._graph_attention import GraphAttention
from regmask_sk.baselines._graphreg_model import BinnedTarget, GraphRegModel
from regmask_sk.baselines._rival import RivalRegressor
from regmask_sk.genome import check_chromosomes, shorten
from regmask_sk.windows import Windows

PathLike = str | os.PathLike[str]


class GraphRegRegressor(RivalRegressor):
    """Predict expression from bins of the window that attend to the bins they are in contact with.

    Parameters
    ----------
    bin_size : int, default=5000
        Base pairs of a bin, a node of the graph. Bins are laid from the TSS outward, so that it is
        in the middle of one. A window must have three of them at least: smaller bins for short
        windows.
    resolution : int, default=100
        Base pairs of a cell, a divisor of `bin_size`: tracks are averaged over cells, and the
        sequence is pooled to them, before both are pooled to bins.
    contacts : str or path-like, optional
        Contact map, a cooler file as for :class:`~regmask_sk.ContactChannel`. Bins that meet more
        often than `enrichment` times what a power law of their distance expects share an edge.
    loops : str or path-like, optional
        BEDPE file of loops, 0-based and half-open, in place of `contacts`. Bins that the two ends
        of a loop lie in share an edge. Loops between chromosomes are left out.
    max_distance : int, default=100_000
        Base pairs. Without `contacts` and `loops` bins no farther apart than this share an edge:
        those whose expected contact, a power law of the distance, is at least that at
        `max_distance`.
    enrichment : float, default=1.0
        See `contacts`.
    balance, chrom_alias
        As in :class:`~regmask_sk.ContactChannel`; `chrom_alias` is for `loops` too.
    target_track : str, optional
        Name of a channel of X, a track of CAGE or another count, unscaled, that the network
        predicts for every bin in training. It is read for the loss alone: predictions do not
        depend on it, though X must have it.
    target_weight : float, default=1.0
        Weight of the Poisson loss of `target_track` against the loss of the genes.
    d_model : int, default=128
        Channels of a bin.
    n_layers : int, default=2
        Layers of graph attention.
    n_heads : int, default=4
        Attention heads, a divisor of `d_model`.
    dropout : float, default=0.5
        Dropout probability after each step to bins, before each layer of the graph, and in the
        last network.
    covariates, reverse_complement, loss, max_epochs, patience, batch_size, learning_rate, \
            weight_decay, gradient_clip, ema_decay, validation_chroms, validation_fraction, \
            warm_start, n_workers, device, amp, accelerate, random_state, verbose
        As in ``RegMaskRegressor``.

    Attributes
    ----------
    net_ : WindowNet
        The skorch net; ``net_.module_`` is the torch model.
    history_ : DataFrame
        One row an epoch: ``epoch, stage, train_loss, valid_loss, seconds``. With `target_track`
        the training loss has both parts, the validation loss that of the genes alone.
    channel_names_in_, n_features_in_, target_mean_, target_scale_, covariate_mean_, \
            covariate_scale_, device_, scan_backend_, n_processes_
        As in ``RegMaskRegressor``.

    Notes
    -----
    Published: tracks in cells of 100 bp or the sequence, bins of 5 kb on a fixed grid, windows of
    6 Mb, graphs of significant contacts (HiC-DC+), one Poisson loss. The widths, the pooling, the
    number of layers and heads, the dropout and the sigmoid gate are those; the sequence and tracks
    are read together, the default graph, the bins around the TSS and the loss of the genes are
    not.

    Arrays, which lie nowhere on a genome, need neither `contacts` nor `loops`; their channels,
    which have no names, are all scanned base by base.

    References
    ----------
    Karbalayghareh et al., "Chromatin interaction-aware gene regulatory modeling with graph
    attention networks", Genome Research 32 (2022).

    Examples
    --------
    >>> import numpy as np
    >>> from regmask_sk import GraphRegRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(40, 2, 64)).astype("float32")
    >>> model = GraphRegRegressor(bin_size=8, resolution=2, d_model=8, max_epochs=2, random_state=0)
    >>> model.fit(X, X[:, 0, 28:36].sum(axis=1)).predict(X).shape
    (40,)
    """

    _shape_parameters: ClassVar[tuple[str, ...]] = (
        "bin_size", "resolution", "target_track", "d_model", "n_layers", "n_heads",
    )  # fmt: skip

    def __init__(
        self,
        *,
        bin_size: int = 5000,
        resolution: int = 100,
        contacts: PathLike | None = None,
        loops: PathLike | None = None,
        max_distance: int = 100_000,
        enrichment: float = 1.0,
        balance: bool | str = True,
        chrom_alias: Mapping[str, str] | None = None,
        target_track: str | None = None,
        target_weight: float = 1.0,
        d_model: int = 128,
        n_layers: int = 2,
        n_heads: int = 4,
        dropout: float = 0.5,
        covariates: Sequence[str] = (),
        reverse_complement: Literal["none", "augment", "ph", "ps"] = "none",
        loss: Literal["squared_error", "huber"] = "squared_error",
        max_epochs: int = 30,
        patience: int = 15,
        batch_size: int | Literal["auto"] = 32,
        learning_rate: float = 0.003,
        weight_decay: float = 0.01,
        gradient_clip: float = 1.0,
        ema_decay: float = 0.994,
        validation_chroms: Sequence[str] | None = None,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        n_workers: int = 0,
        device: str = "auto",
        amp: bool | Literal["auto"] = "auto",
        accelerate: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            covariates=covariates,
            reverse_complement=reverse_complement,
            loss=loss,
            max_epochs=max_epochs,
            patience=patience,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            gradient_clip=gradient_clip,
            ema_decay=ema_decay,
            validation_chroms=validation_chroms,
            validation_fraction=validation_fraction,
            warm_start=warm_start,
            n_workers=n_workers,
            device=device,
            amp=amp,
            accelerate=accelerate,
            random_state=random_state,
            verbose=verbose,
        )
        self.bin_size = bin_size
        self.resolution = resolution
        self.contacts = contacts
        self.loops = loops
        self.max_distance = max_distance
        self.enrichment = enrichment
        self.balance = balance
        self.chrom_alias = chrom_alias
        self.target_track = target_track
        self.target_weight = target_weight
        self.d_model = d_model
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.dropout = dropout

    @property
    def _layout(self) -> BinLayout:
        return BinLayout(self.n_features_in_, self.bin_size)

    def _note_windows(self, X: WindowArray) -> None:
        self._check_shape()
        self._check_target_track(X)
        if self.contacts is not None and self.loops is not None:
            raise ValueError(
                f"contacts={self.contacts!r} and loops={self.loops!r} both say which bins are in "
                "contact. Give one of them."
            )
        given = "contacts" if self.contacts is not None else "loops"
        if getattr(self, given) is None:
            return
        if not isinstance(X, Windows):
            raise ValueError(
                f"{given}={getattr(self, given)!r} needs to know where on the genome each row "
                f"lies, but X is an array. Pass Windows (from TSSWindows), or set {given}=None."
            )
        found = self._contacts()
        if isinstance(found, MapContacts):
            check_chromosomes(X.loci, (*X.readers, found.reader))
        elif isinstance(found, LoopContacts) and not set(X.loci["chrom"]) & set(found.by_chrom):
            raise ValueError(
                f"loops {self.loops} share no chromosome with X: they are on "
                f"{shorten(found.by_chrom)}, X is on {shorten(dict.fromkeys(X.loci['chrom']))}. "
                "If the file names them differently, give chrom_alias={name in the loci: name in "
                "the file}."
            )

    def _check_shape(self) -> None:
        """Refuse bins, cells and heads that do not go with each other or with the windows."""
        length = self.n_features_in_
        if self.bin_size > max(length // 2, 1):
            raise ValueError(
                f"bin_size={self.bin_size} leaves fewer than 3 bins of a window of {length} bp "
                f"({length} feature(s)), and a graph needs as many. Set bin_size to "
                f"{max(length // 9, 1)} or so, and resolution to a divisor of it."
            )
        if self.bin_size % self.resolution:
            raise ValueError(
                f"resolution={self.resolution} does not divide bin_size={self.bin_size}; a bin "
                "must hold a whole number of cells. Set resolution to a divisor of bin_size."
            )
        if self.d_model % self.n_heads:
            raise ValueError(
                f"n_heads={self.n_heads} does not divide d_model={self.d_model}. Change one of "
                "the two."
            )
        if self.reverse_complement in ("ph", "ps") and (length - self.bin_size) % 2:
            raise ValueError(
                f"reverse_complement={self.reverse_complement!r} turns windows bin by bin, but "
                f"bins of {self.bin_size} bp do not lie evenly in a window of {length} bp. Make "
                "both even, or both odd."
            )

    def _check_target_track(self, X: WindowArray) -> None:
        """Refuse a target track that X does not have, or not as counts."""
        name = self.target_track
        if name is None:
            return
        names = list(X.channel_names) if isinstance(X, Windows) else []
        others = [channel for channel in names if channel != name]
        if name not in names or name in SEQUENCE_CHANNELS or not others:
            raise ValueError(
                f"target_track={name!r} must be a track of X, beside channels to read; X has "
                f"{names or 'no channel names'}. Add it with SignalChannels(scaling='none'), or "
                "set target_track=None."
            )
        for source in cast(Windows, X).sources:
            if name in source.channel_names and getattr(source, "scales", None) is not None:
                raise ValueError(
                    f"target_track={name!r} is scaled, and a Poisson loss is for counts. Add it "
                    "with a SignalChannels(scaling='none') of its own."
                )

    def _contacts(self) -> Contacts:
        """Open what says which bins are in contact."""
        if self.contacts is not None:
            reader = CoolerReader(self.contacts, balance=self.balance, chrom_alias=self.chrom_alias)
            return MapContacts(reader, self.enrichment)
        if self.loops is not None:
            return LoopContacts.from_table(read_bedpe(Path(self.loops)), self.chrom_alias)
        return NearContacts(self.max_distance)

    def _dataset_options(self, X: WindowArray) -> dict[str, Any]:
        sized = X.readers if isinstance(X, Windows) else ()
        return {"extras": ContactGraph(self._contacts(), self._layout, sized)}

    def _make_module(self, n_outputs: int) -> GraphRegModel:
        layout, complement = self._layout, self._channel_complement
        roles = channel_roles(self.channel_names_in_, self.n_channels_in_)
        target = None
        read = roles.read
        if self.target_track is not None:
            channel = cast(tuple[str, ...], self.channel_names_in_).index(self.target_track)
            read = tuple(index for index in read if index != channel)
            target = BinnedTarget(channel, layout, self.d_model, self.target_weight)
        n_sequence = len(roles.sequence)
        tower: BinTower | SharedStrands = BinTower(
            n_sequence,
            len(read) - n_sequence,
            layout,
            cell_size=self.resolution,
            d_model=self.d_model,
            dropout=self.dropout,
        )
        if self.reverse_complement == "ps" and complement is not None:
            tower = SharedStrands(tower, among(complement, read))
        graph = [
            GraphAttention(self.d_model, self.d_model, n_heads=self.n_heads)
            for _ in range(self.n_layers)
        ]
        return GraphRegModel(
            tower,
            graph,
            layout,
            read,
            n_outputs=n_outputs,
            n_covariates=len(self.covariate_mean_),
            dropout=self.dropout,
            target=target,
            conjoined=complement if self.reverse_complement == "ph" else None,
        )
