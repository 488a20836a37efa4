"""regmask_sk: gene expression from DNA and signal tracks, with the bases that drive it.

A public name is looked up when it is first used, so that ``import regmask_sk`` costs nothing, and
so that a process that only reads loci or tracks never loads torch.

Examples
--------
>>> import regmask_sk
>>> regmask_sk.TSSWindows(length=2_000)
TSSWindows(length=2000)
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regmask_sk.attribution import attribute as attribute
    from regmask_sk.attribution import attribution_batches as attribution_batches
    from regmask_sk.attribution import completeness_gap as completeness_gap
    from regmask_sk.baselines.backbone import BackboneRegressor as BackboneRegressor
    from regmask_sk.baselines.binned_signal import BinnedSignalRegressor as BinnedSignalRegressor
    from regmask_sk.baselines.enformer import EnformerRegressor as EnformerRegressor
    from regmask_sk.baselines.epinformer import EPInformerRegressor as EPInformerRegressor
    from regmask_sk.baselines.graphreg import GraphRegRegressor as GraphRegRegressor
    from regmask_sk.baselines.peak_mask import PeakMaskRegressor as PeakMaskRegressor
    from regmask_sk.baselines.position_mask import PositionMaskRegressor as PositionMaskRegressor
    from regmask_sk.baselines.prism import PrismRegressor as PrismRegressor
    from regmask_sk.benchmark import Comparison as Comparison
    from regmask_sk.benchmark import compare as compare
    from regmask_sk.browser import write_igv_session as write_igv_session
    from regmask_sk.browser import write_track_hub as write_track_hub
    from regmask_sk.contacts import ContactChannel as ContactChannel
    from regmask_sk.datasets import simulate_genome as simulate_genome
    from regmask_sk.export import call_elements as call_elements
    from regmask_sk.export import export_masks as export_masks
    from regmask_sk.export import gene_elements as gene_elements
    from regmask_sk.features import SequenceChannels as SequenceChannels
    from regmask_sk.features import SignalChannels as SignalChannels
    from regmask_sk.features import TSSWindows as TSSWindows
    from regmask_sk.gene_models import read_gene_models as read_gene_models
    from regmask_sk.genome import BigWigReader as BigWigReader
    from regmask_sk.genome import FastaReader as FastaReader
    from regmask_sk.loci import check_loci as check_loci
    from regmask_sk.loci import read_loci as read_loci
    from regmask_sk.loci import read_regions as read_regions
    from regmask_sk.metrics import activity_contact as activity_contact
    from regmask_sk.metrics import agreement_scorer as agreement_scorer
    from regmask_sk.metrics import agreement_table as agreement_table
    from regmask_sk.metrics import chromosome_bootstrap as chromosome_bootstrap
    from regmask_sk.metrics import comprehensiveness as comprehensiveness
    from regmask_sk.metrics import consensus_elements as consensus_elements
    from regmask_sk.metrics import consensus_mask as consensus_mask
    from regmask_sk.metrics import deletion_curve as deletion_curve
    from regmask_sk.metrics import faithfulness_scorer as faithfulness_scorer
    from regmask_sk.metrics import faithfulness_table as faithfulness_table
    from regmask_sk.metrics import insertion_curve as insertion_curve
    from regmask_sk.metrics import mask_average_precision as mask_average_precision
    from regmask_sk.metrics import mask_pair_scores as mask_pair_scores
    from regmask_sk.metrics import mask_roc_auc as mask_roc_auc
    from regmask_sk.metrics import mask_stability as mask_stability
    from regmask_sk.metrics import masks_over_fits as masks_over_fits
    from regmask_sk.metrics import overlap_enrichment as overlap_enrichment
    from regmask_sk.metrics import pair_table as pair_table
    from regmask_sk.metrics import read_crispri_pairs as read_crispri_pairs
    from regmask_sk.metrics import region_labels as region_labels
    from regmask_sk.metrics import regression_metrics as regression_metrics
    from regmask_sk.metrics import selection_frequency as selection_frequency
    from regmask_sk.metrics import smoothed_track as smoothed_track
    from regmask_sk.metrics import sufficiency as sufficiency
    from regmask_sk.metrics import top_share as top_share
    from regmask_sk.model_selection import ChromosomeKFold as ChromosomeKFold
    from regmask_sk.model_selection import LeaveCellTypesOut as LeaveCellTypesOut
    from regmask_sk.model_selection import LeaveChromosomesOut as LeaveChromosomesOut
    from regmask_sk.model_selection import TwelveFold as TwelveFold
    from regmask_sk.model_selection import cross_val_masks as cross_val_masks
    from regmask_sk.motifs import Motif as Motif
    from regmask_sk.motifs import iter_motif_sites as iter_motif_sites
    from regmask_sk.motifs import motif_enrichment as motif_enrichment
    from regmask_sk.motifs import read_motifs as read_motifs
    from regmask_sk.motifs import scan_motifs as scan_motifs
    from regmask_sk.ops.positions import position_only_mask as position_only_mask
    from regmask_sk.path import sparsity_path as sparsity_path
    from regmask_sk.peaks import call_peaks as call_peaks
    from regmask_sk.persistence import load_model as load_model
    from regmask_sk.persistence import save_model as save_model
    from regmask_sk.plotting.benchmark import BenchmarkDisplay as BenchmarkDisplay
    from regmask_sk.plotting.front import SparsityFrontDisplay as SparsityFrontDisplay
    from regmask_sk.plotting.heatmap import MaskHeatmapDisplay as MaskHeatmapDisplay
    from regmask_sk.plotting.history import HistoryDisplay as HistoryDisplay
    from regmask_sk.plotting.locus import LocusDisplay as LocusDisplay
    from regmask_sk.plotting.locus_figure import plot_locus as plot_locus
    from regmask_sk.plotting.predictions import PredictionDisplay as PredictionDisplay
    from regmask_sk.plotting.profile import MaskProfileDisplay as MaskProfileDisplay
    from regmask_sk.regressor import RegMaskRegressor as RegMaskRegressor
    from regmask_sk.report.elements import read_motif_table as read_motif_table
    from regmask_sk.report.write import write_report as write_report
    from regmask_sk.seq2exp import load_seq2exp as load_seq2exp
    from regmask_sk.tuning import SparsityTuning as SparsityTuning
    from regmask_sk.tuning import tune_sparsity as tune_sparsity
    from regmask_sk.window_cache import WindowCache as WindowCache
    from regmask_sk.windows import Windows as Windows

__version__ = metadata.version("regmask_sk")

# Public name -> the module that defines it. The imports above tell type checkers the same.
_PUBLIC = {
    "BackboneRegressor": "baselines.backbone",
    "BenchmarkDisplay": "plotting.benchmark",
    "BigWigReader": "genome",
    "BinnedSignalRegressor": "baselines.binned_signal",
    "ChromosomeKFold": "model_selection",
    "Comparison": "benchmark",
    "ContactChannel": "contacts",
    "EPInformerRegressor": "baselines.epinformer",
    "EnformerRegressor": "baselines.enformer",
    "FastaReader": "genome",
    "GraphRegRegressor": "baselines.graphreg",
    "HistoryDisplay": "plotting.history",
    "LeaveCellTypesOut": "model_selection",
    "LeaveChromosomesOut": "model_selection",
    "LocusDisplay": "plotting.locus",
    "MaskHeatmapDisplay": "plotting.heatmap",
    "MaskProfileDisplay": "plotting.profile",
    "Motif": "motifs",
    "PeakMaskRegressor": "baselines.peak_mask",
    "PositionMaskRegressor": "baselines.position_mask",
    "PredictionDisplay": "plotting.predictions",
    "PrismRegressor": "baselines.prism",
    "RegMaskRegressor": "regressor",
    "SequenceChannels": "features",
    "SignalChannels": "features",
    "SparsityFrontDisplay": "plotting.front",
    "SparsityTuning": "tuning",
    "TSSWindows": "features",
    "TwelveFold": "model_selection",
    "WindowCache": "window_cache",
    "Windows": "windows",
    "activity_contact": "metrics",
    "agreement_scorer": "metrics",
    "agreement_table": "metrics",
    "attribute": "attribution",
    "attribution_batches": "attribution",
    "call_elements": "export",
    "call_peaks": "peaks",
    "check_loci": "loci",
    "chromosome_bootstrap": "metrics",
    "compare": "benchmark",
    "comprehensiveness": "metrics",
    "consensus_elements": "metrics",
    "consensus_mask": "metrics",
    "completeness_gap": "attribution",
    "cross_val_masks": "model_selection",
    "deletion_curve": "metrics",
    "export_masks": "export",
    "faithfulness_scorer": "metrics",
    "faithfulness_table": "metrics",
    "gene_elements": "export",
    "insertion_curve": "metrics",
    "iter_motif_sites": "motifs",
    "load_model": "persistence",
    "load_seq2exp": "seq2exp",
    "mask_average_precision": "metrics",
    "mask_pair_scores": "metrics",
    "mask_roc_auc": "metrics",
    "mask_stability": "metrics",
    "masks_over_fits": "metrics",
    "overlap_enrichment": "metrics",
    "pair_table": "metrics",
    "plot_locus": "plotting.locus_figure",
    "motif_enrichment": "motifs",
    "position_only_mask": "ops.positions",
    "read_crispri_pairs": "metrics",
    "read_gene_models": "gene_models",
    "read_loci": "loci",
    "read_motif_table": "report.elements",
    "read_motifs": "motifs",
    "read_regions": "loci",
    "region_labels": "metrics",
    "regression_metrics": "metrics",
    "save_model": "persistence",
    "selection_frequency": "metrics",
    "scan_motifs": "motifs",
    "simulate_genome": "datasets",
    "smoothed_track": "metrics",
    "sparsity_path": "path",
    "sufficiency": "metrics",
    "top_share": "metrics",
    "tune_sparsity": "tuning",
    "write_report": "report.write",
    "write_igv_session": "browser",
    "write_track_hub": "browser",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value  # the next look-up finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
