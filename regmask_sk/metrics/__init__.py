"""Measures of predictions and of masks, and the controls that a mask must beat.

A mask that finds the right bases may only have learned where they usually lie, or may only repeat
the accessibility track. Two controls tell these apart: :func:`position_only_mask`, the same mean
profile for every gene, and :func:`smoothed_track`, a channel smoothed by a moving average. Both
are scored by the functions that score a mask.

All masks, attributions and labels are in gene orientation, as ``Windows`` and the estimators give
them: column *j* of a minus-strand gene lies *j* bases downstream of its first column on the minus
strand.
"""

from __future__ import annotations

from regmask_sk.metrics.agreement import agreement_table as agreement_table
from regmask_sk.metrics.bootstrap import chromosome_bootstrap as chromosome_bootstrap
from regmask_sk.metrics.consensus import consensus_elements as consensus_elements
from regmask_sk.metrics.consensus import consensus_mask as consensus_mask
from regmask_sk.metrics.consensus import selection_frequency as selection_frequency
from regmask_sk.metrics.controls import position_only_mask as position_only_mask
from regmask_sk.metrics.controls import smoothed_track as smoothed_track
from regmask_sk.metrics.crispri import activity_contact as activity_contact
from regmask_sk.metrics.crispri import mask_pair_scores as mask_pair_scores
from regmask_sk.metrics.crispri import read_crispri_pairs as read_crispri_pairs
from regmask_sk.metrics.curves import deletion_curve as deletion_curve
from regmask_sk.metrics.curves import insertion_curve as insertion_curve
from regmask_sk.metrics.enrichment import overlap_enrichment as overlap_enrichment
from regmask_sk.metrics.faithfulness import comprehensiveness as comprehensiveness
from regmask_sk.metrics.faithfulness import faithfulness_table as faithfulness_table
from regmask_sk.metrics.faithfulness import sufficiency as sufficiency
from regmask_sk.metrics.labels import region_labels as region_labels
from regmask_sk.metrics.pairs import pair_table as pair_table
from regmask_sk.metrics.ranking import mask_average_precision as mask_average_precision
from regmask_sk.metrics.ranking import mask_roc_auc as mask_roc_auc
from regmask_sk.metrics.regression import regression_metrics as regression_metrics
from regmask_sk.metrics.scorers import agreement_scorer as agreement_scorer
from regmask_sk.metrics.scorers import faithfulness_scorer as faithfulness_scorer
from regmask_sk.metrics.selection import top_share as top_share
from regmask_sk.metrics.stability import mask_stability as mask_stability
from regmask_sk.metrics.stability import masks_over_fits as masks_over_fits
