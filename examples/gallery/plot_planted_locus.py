"""
A mask on a planted locus
=========================

Simulate a genome whose acting elements are known, train a small model, and draw one locus: its
tracks, the mask, and the elements that act.
"""

# %%
# Real files
# ----------
# :func:`regmask_sk.simulate_genome` writes FASTA and bigWig files. An element acts only where a
# motif and open chromatin meet; each of the two also occurs alone, and then does nothing.

import tempfile

import matplotlib.pyplot as plt
import numpy as np
from sklearn.pipeline import Pipeline

from regmask_sk import (
    RegMaskRegressor,
    SequenceChannels,
    SignalChannels,
    TSSWindows,
    WindowCache,
    gene_elements,
    mask_average_precision,
    plot_locus,
    region_labels,
    regression_metrics,
    simulate_genome,
    smoothed_track,
)

folder = tempfile.TemporaryDirectory()
genome = simulate_genome(folder.name, n_genes=1200, overwrite=True)
genome.loci.head()

# %%
# Training
# --------
# Two whole chromosomes are held out, and a third one picks the epoch.

loci = genome.loci.drop(columns="expression")
y = genome.loci["expression"]
test = loci["chrom"].isin(["chr7", "chr8"])
pipeline = Pipeline(
    [
        ("windows", TSSWindows(length=1024)),
        ("sequence", SequenceChannels(genome.fasta)),
        ("signal", SignalChannels({"atac": genome.tracks["atac"]})),
        ("cache", WindowCache()),
        (
            "model",
            RegMaskRegressor(
                sparsity=0.2,
                promoter_length=96,
                max_epochs=12,
                validation_chroms=["chr6"],
                random_state=0,
            ),
        ),
    ]
)
pipeline.fit(loci[~test], y[~test])
regression_metrics(y[test], pipeline.predict(loci[test]))

# %%
# The mask of one gene
# --------------------
# The lowest row of bars is the planted truth, the one above it what is called from the mask.

windows = pipeline[:-1].transform(loci[test])
model = pipeline[-1]
row = int(y[test].argmax())
mask = model.transform(windows[[row]])[0]
planted = genome.elements.query("kind == 'acting'")
plot_locus(
    windows,
    row,
    mask,
    elements=gene_elements(windows, row, mask, merge_gap=16),
    known=planted[planted["gene"] == windows.loci.index[row]],
    figure=plt.figure(figsize=(8, 4), layout="constrained"),
)

# %%
# Against the truth
# -----------------
# Average precision of the masks as rankings of the bases, promoter left out, beside the raw
# track: a mask is worth something only where it ranks better than that.

labels = region_labels(windows, planted, gene_column="gene")
promoter = model.promoter_columns_
track = np.stack(list(smoothed_track(windows, "atac", width=32)))
masks = model.transform(windows)
for name, scores in {"mask": masks, "smoothed track": track}.items():
    print(f"{name}: {mask_average_precision(scores, labels, exclude=promoter):.3f}")
