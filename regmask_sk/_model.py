"""Build the torch model for the shapes and channels that X has."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

from torch import nn

from regmask_sk.backbones import make_backbone
from regmask_sk.backbones.finer import Detail, FinerGrain
from regmask_sk.backbones.strands import SharedStrands
from regmask_sk.distributions import DistributionName
from regmask_sk.generator import Evidence, Generator
from regmask_sk.masking import MaskedExpressionModel
from regmask_sk.predictor import Predictor, Readout

_LEAST_TOKENS = 8  # of a window: with fewer, a budget of a tenth could not be kept
SEQUENCE_CHANNELS = ("A", "C", "G", "T")
ReverseComplement = Literal["none", "augment", "ph", "ps"]


def promoter_window(
    length: int, promoter_length: int | Literal["auto"], largest_share: float
) -> tuple[int, int]:
    """First and last + 1 column of the promoter window.

    Parameters
    ----------
    length : int
        Length of the window in base pairs; the TSS is in column ``length // 2``.
    promoter_length : int or "auto"
        Width in base pairs; ``"auto"`` is a twentieth of the window, at most 2,000 bp.
    largest_share : float
        Share of the window that the promoter may take at most.

    Returns
    -------
    tuple of int
        Half-open columns.

    Raises
    ------
    ValueError
        If the width is negative, or more than its share of the window.

    Examples
    --------
    >>> promoter_window(4096, 200, 0.15)
    (1948, 2148)
    """
    width = min(length // 20, 2_000) if promoter_length == "auto" else promoter_length
    if isinstance(width, bool) or int(width) != width or width < 0:
        raise ValueError(
            f"promoter_length={promoter_length!r}; expected 'auto' or a whole number of base "
            "pairs, 0 or more."
        )
    if width > largest_share * length:
        raise ValueError(
            f"promoter_length={width} is {width / length:.1%} of the window of {length} bp, more "
            f"than the {largest_share:.1%} that may be kept, promoter included. Shorten "
            "promoter_length, lengthen the window, or raise sparsity."
        )
    first = length // 2 - int(width) // 2
    return first, first + int(width)


class ChannelRoles(NamedTuple):
    """Which channels of a window are sequence, and which are signals, by their indices."""

    sequence: tuple[int, ...]
    signals: tuple[int, ...]

    @property
    def read(self) -> tuple[int, ...]:
        """All channels in the order in which bodies read them."""
        return self.sequence + self.signals


def channel_roles(channel_names: tuple[str, ...] | None, n_channels: int) -> ChannelRoles:
    """Tell sequence from signals; channels without names are read as they come.

    Examples
    --------
    >>> channel_roles(("atac", "A", "C", "G", "T"), 5)
    ChannelRoles(sequence=(1, 2, 3, 4), signals=(0,))
    """
    names, every = channel_names or (), range(n_channels)
    signals = tuple(i for i in every if names and names[i] not in SEQUENCE_CHANNELS)
    sequence = tuple(names.index(name) for name in SEQUENCE_CHANNELS if name in names)
    return ChannelRoles(sequence or tuple(i for i in every if i not in signals), signals)


def token_length(length: int, resolution: int) -> int:
    """Bases that a token stands for: `resolution`, and less in short windows.

    Examples
    --------
    >>> token_length(4096, 16), token_length(64, 16)
    (16, 8)
    """
    return max(min(resolution, length // _LEAST_TOKENS), 1)


def among(complement: tuple[int, ...], read: tuple[int, ...]) -> tuple[int, ...]:
    """Complement of some of the channels, by their places among these."""
    return tuple(read.index(complement[channel]) for channel in read)


def make_body(
    backbone: str | type[nn.Module],
    n_channels: int,
    *,
    channel_names: tuple[str, ...] | None,
    length: int,
    d_model: int,
    n_layers: int,
    dropout: float,
    resolution: int,
    checkpointing: bool,
) -> nn.Module:
    """Build a body for windows, and refuse one that needs a sequence where there is none.

    Parameters
    ----------
    backbone, d_model, n_layers, dropout, resolution, checkpointing
        As for :func:`regmask_sk.backbones.make_backbone`.
    n_channels : int
        Number of channels that the body reads.
    channel_names : tuple of str or None
        Names of the window's channels, where they have names.
    length : int
        Length of the window in base pairs.

    Returns
    -------
    nn.Module
        The body.

    Raises
    ------
    ValueError
        If the body needs the channels A, C, G and T and there are none.
    """
    module = make_backbone(
        backbone,
        n_channels,
        d_model=d_model,
        n_layers=n_layers,
        dropout=dropout,
        resolution=resolution,
        max_length=length,
        checkpointing=checkpointing,
    )
    names = channel_names or ()
    if getattr(module, "needs_sequence", False) and not set(SEQUENCE_CHANNELS) <= set(names):
        raise ValueError(
            f"backbone={backbone!r} needs the channels A, C, G and T by name; X has "
            f"{list(names) or 'no channel names'}. Build X with SequenceChannels, or take "
            "backbone='conv'."
        )
    return module


def build_model(
    *,
    backbone: str | type[nn.Module],
    channel_names: tuple[str, ...] | None,
    n_channels: int,
    length: int,
    promoter: tuple[int, int],
    n_outputs: int,
    n_covariates: int,
    joint: bool,
    gate_distribution: DistributionName,
    evidence: Evidence = "learned",
    sparsity: float,
    resolution: int,
    mask_resolution: int | None = None,
    d_model: int,
    n_layers: int,
    dropout: float,
    checkpointing: bool = False,
    reverse_complement: ReverseComplement = "none",
    complement: tuple[int, ...] | None = None,
) -> MaskedExpressionModel:
    """Build a generator and a predictor with bodies of one kind.

    Parameters
    ----------
    backbone, resolution, mask_resolution, d_model, n_layers, dropout, checkpointing, sparsity
        As in ``RegMaskRegressor``; the tokens of a short window are shorter, so that it has
        at least 8 of them.
    channel_names : tuple of str or None
        Names of the window's channels, where they have names.
    n_channels, length : int
        Shape of the window.
    promoter : tuple of int
        Columns that are always kept.
    n_outputs, n_covariates : int
        Numbers of targets and of covariates.
    joint : bool
        Whether the generator's body reads the sequence alone, each track adding its own
        evidence, as in the published decomposition; otherwise it reads every channel.
    gate_distribution : str
        Name of the gates' family.
    evidence : str, default="learned"
        How tracks enter Beta gates.
    reverse_complement : {"none", "augment", "ph", "ps"}
        As in ``RegMaskRegressor``.
    complement : tuple of int, optional
        For each channel the channel of the opposite strand; needed for ``"ph"`` and ``"ps"``.

    Returns
    -------
    MaskedExpressionModel
        On the CPU, with fresh weights from torch's global random state.

    Raises
    ------
    ValueError
        If the backbone is unknown, or needs the sequence where there is none, or
        `mask_resolution` does not divide the tokens, or the window cannot be turned token by
        token where `reverse_complement` asks for that.

    Examples
    --------
    >>> model = build_model(
    ...     backbone="conv", channel_names=None, n_channels=2, length=64, promoter=(30, 34),
    ...     n_outputs=1, n_covariates=0, joint=False, gate_distribution="beta", sparsity=0.2,
    ...     resolution=8, d_model=8, n_layers=1, dropout=0.1,
    ... )
    >>> model.n_tokens, model.n_gates
    (8, 8)
    """
    roles = channel_roles(channel_names, n_channels)
    sequence, signals = roles
    grain = token_length(length, resolution)
    # Where it is the resolution, the mask has the grain of the tokens, however short they are.
    mask_grain = grain if mask_resolution in (None, resolution) else mask_resolution
    if grain % mask_grain:
        raise ValueError(
            f"mask_resolution={mask_resolution} does not divide the {grain} bp of a token: a "
            f"window of {length} bp has {_LEAST_TOKENS} tokens at least, whatever resolution "
            f"({resolution}) says. Set mask_resolution=1 or a divisor of {grain}, or lengthen "
            "the window."
        )

    symmetric = complement is not None and reverse_complement in ("ph", "ps")
    shared = complement if symmetric and reverse_complement == "ps" else None
    if symmetric:
        check_symmetry(length, grain, promoter, reverse_complement)

    settings: dict[str, Any] = {
        "channel_names": channel_names,
        "length": length,
        "d_model": d_model,
        "n_layers": n_layers,
        "dropout": dropout,
        "resolution": resolution,
        "checkpointing": checkpointing,
        "complement": shared,
    }

    def finer(module: nn.Module, read: tuple[int, ...]) -> nn.Module | None:
        if mask_grain == grain:
            return None
        channels = cast(int, module.out_channels)
        detail = Detail(len(read) + 1, channels, mask_grain)
        return FinerGrain(channels, _on_strands(detail, read, shared), grain // mask_grain)

    read = sequence if joint and sequence else roles.read
    generating = _masked_body(backbone, read, **settings)
    generator = Generator(
        generating,
        body_channels=read,
        signal_channels=signals,
        n_gates=-(-length // mask_grain),
        distribution=gate_distribution,
        evidence=evidence,
        signal_complement=among(shared, signals) if shared else None,
        finer=finer(generating, read),
    )
    predictor = build_predictor(
        backbone, n_channels=n_channels, n_outputs=n_outputs, n_covariates=n_covariates, **settings
    )
    return MaskedExpressionModel(
        generator,
        predictor,
        length=length,
        promoter=promoter,
        sparsity=sparsity,
        conjoined=complement if symmetric and shared is None else None,
    )


def build_predictor(
    backbone: str | type[nn.Module],
    *,
    channel_names: tuple[str, ...] | None,
    n_channels: int,
    length: int,
    n_outputs: int,
    n_covariates: int,
    resolution: int,
    d_model: int,
    n_layers: int,
    dropout: float,
    checkpointing: bool = False,
    complement: tuple[int, ...] | None = None,
) -> Predictor:
    """Build the network that predicts from what a mask keeps.

    Parameters
    ----------
    backbone, channel_names, n_channels, length, n_outputs, n_covariates, resolution, d_model, \
            n_layers, dropout, checkpointing
        As in :func:`build_model`.
    complement : tuple of int, optional
        For each channel the channel of the opposite strand, where both strands are read with
        shared weights.

    Returns
    -------
    Predictor
        On the CPU, with fresh weights from torch's global random state.

    Examples
    --------
    >>> predictor = build_predictor(
    ...     "conv", channel_names=None, n_channels=2, length=64, n_outputs=1, n_covariates=0,
    ...     resolution=8, d_model=8, n_layers=1, dropout=0.1,
    ... )
    >>> predictor.resolution
    8
    """
    read = channel_roles(channel_names, n_channels).read
    grain = token_length(length, resolution)
    body = _masked_body(
        backbone,
        read,
        channel_names=channel_names,
        length=length,
        resolution=resolution,
        d_model=d_model,
        n_layers=n_layers,
        dropout=dropout,
        checkpointing=checkpointing,
        complement=complement,
    )
    readout = Readout(
        cast(int, body.out_channels),
        n_outputs,
        n_covariates,
        n_tokens=-(-length // grain),
        resolution=grain,
        # The readout is where a few thousand genes are learned by heart soonest.
        dropout=min(3 * dropout, 0.5),
        both_directions=complement is not None,
    )
    return Predictor(body, readout, read)


def _masked_body(
    backbone: str | type[nn.Module],
    read: tuple[int, ...],
    *,
    channel_names: tuple[str, ...] | None,
    length: int,
    resolution: int,
    d_model: int,
    n_layers: int,
    dropout: float,
    checkpointing: bool,
    complement: tuple[int, ...] | None,
) -> nn.Module:
    """Build a body for some of the window's channels and, last, the mask."""
    body = make_body(
        backbone,
        len(read) + 1,
        channel_names=channel_names,
        length=length,
        d_model=d_model,
        n_layers=n_layers,
        dropout=dropout,
        resolution=token_length(length, resolution),
        checkpointing=checkpointing,
    )
    return _on_strands(body, read, complement)


def _on_strands(
    module: nn.Module, read: tuple[int, ...], complement: tuple[int, ...] | None
) -> nn.Module:
    if complement is None:
        return module
    # The mask comes last, and is its own complement.
    return SharedStrands(module, (*among(complement, read), len(read)))


def check_symmetry(
    length: int, grain: int, promoter: tuple[int, int], reverse_complement: str
) -> None:
    """Refuse windows whose tokens or promoter would not fall on themselves when turned."""
    if length % grain:
        raise ValueError(
            f"reverse_complement={reverse_complement!r} turns windows token by token, but their "
            f"length, {length} bp, is no multiple of resolution={grain}. Change one of the two."
        )
    first, end = promoter
    if end > first and first + end != length:
        raise ValueError(
            f"reverse_complement={reverse_complement!r} needs a promoter window in the middle of "
            f"the window, but its columns {first} to {end} of {length} are not. Make length and "
            "promoter_length even."
        )
