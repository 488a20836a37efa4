"""
How much can be left out?
=========================

A path of budgets from one training: what accuracy costs when less of the window is kept.
"""

# %%
# One fit, three budgets
# ----------------------
# :func:`regmask_sk.sparsity_path` trains at the largest share, and goes on from there to the
# smaller ones.

import tempfile

import matplotlib.pyplot as plt
from sklearn.pipeline import make_pipeline

from regmask_sk import (
    RegMaskRegressor,
    SequenceChannels,
    SignalChannels,
    TSSWindows,
    WindowCache,
    regression_metrics,
    simulate_genome,
    sparsity_path,
)

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
# Shares are those that the masks of the held-out genes keep.

kept = [float(each.transform(test_windows).mean()) for each in fitted]
pearson = [regression_metrics(y[test], each.predict(test_windows))["pearson"] for each in fitted]
figure, axis = plt.subplots(figsize=(5, 3.5), layout="constrained")
axis.plot(kept, pearson, marker="o")
axis.set_xlabel("share of the bases kept, held-out genes")
axis.set_ylabel("Pearson correlation, held-out genes")
axis.set_xlim(0, None)
