"""Triton kernels: one file per op, tensors in, tensors out, no autograd. Installed as ``survcore.kernels``.

Importing this package needs no Triton; importing one of its modules does.
"""
