"""
How much can be left out?
=========================

A path of budgets from one training: what it costs when less of the window is kept.
"""

# %%
# One fit, three budgets
# ----------------------
# :func:`regmask_sk.sparsity_path` trains at the largest share, and goes on from there to the
# smaller ones.

import tempfile

from sklearn.pipeline import make_pipeline

from regmask_sk import (
    RegMaskRegressor,
    SequenceChannels,
    SignalChannels,
    TSSWindows,
    WindowCache,
    simulate_genome,
    sparsity_path,
)
from regmask_sk.plotting import SparsityFrontDisplay

folder = tempfile.TemporaryDirectory()
genome = simulate_genome(folder.name, n_genes=1200, overwrite=True)
loci, y = genome.loci, genome.loci["expression"]
test = loci["chrom"].isin(["chr7", "chr8"])
features = make_pipeline(
    TSSWindows(length=1024),
    SequenceChannels(genome.fasta),
    SignalChannels({"atac": genome.tracks["atac"]}),
    WindowCache(),
)
train_windows, test_windows = features.fit_transform(loci[~test]), features.transform(loci[test])

shares = [0.6, 0.4, 0.25]
model = RegMaskRegressor(
    promoter_length=96, max_epochs=12, validation_chroms=["chr6"], random_state=0
)
fitted = sparsity_path(model, train_windows, y[~test], shares)

# %%
# The front
# ---------
# Shares and errors are those of the held-out genes.

SparsityFrontDisplay.from_estimators(fitted, test_windows, y[test])
