"""Numeric kernels: tensors in, tensors out, no state."""
