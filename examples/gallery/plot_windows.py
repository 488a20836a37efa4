"""
From a gene table to arrays
===========================

What the transformers hand to a model: lazy windows of named channels around each
transcription start site, read in the direction of the gene.
"""

# %%
# The gene table is the ``X`` of every pipeline
# ---------------------------------------------
# One row a gene; ``tss`` is 0-based.

import tempfile

import matplotlib.pyplot as plt
import numpy as np
from sklearn.pipeline import make_pipeline

from regmask_sk import SequenceChannels, SignalChannels, TSSWindows, read_loci, simulate_genome

folder = tempfile.TemporaryDirectory()
genome = simulate_genome(folder.name, n_genes=160, overwrite=True)
loci = read_loci(genome.loci_path, tss_base=0)
loci.head()

# %%
# Three steps, and nothing is read
# --------------------------------
# Each step adds channels; slicing rows is free. What scales a track is learned in ``fit``,
# from the rows given there.

features = make_pipeline(
    TSSWindows(length=1024),
    SequenceChannels(genome.fasta),
    SignalChannels(genome.tracks),
)
windows = features.fit_transform(loci)
print(windows.shape, windows.channel_names)

# %%
# One integer reads one gene
# --------------------------

one = windows[0]
print(one.shape, one.dtype)
signal = [name for name in windows.channel_names if name not in "ACGT"]
figure, axes = plt.subplots(len(signal), 1, sharex=True, figsize=(8, 4), layout="constrained")
for axis, name in zip(axes, signal, strict=True):
    axis.plot(np.arange(1024) - 512, one[windows.channel_names.index(name)], linewidth=0.8)
    axis.set_ylabel(name)
axes[-1].set_xlabel("bp from the TSS, downstream to the right")
figure.suptitle(f"{loci.index[0]}, strand {loci['strand'].iloc[0]}", fontsize="medium")
