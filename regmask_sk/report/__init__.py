"""A report on a trained model: one HTML file that needs nothing else."""

from regmask_sk.report.elements import read_motif_table
from regmask_sk.report.write import write_report

__all__ = ["read_motif_table", "write_report"]
