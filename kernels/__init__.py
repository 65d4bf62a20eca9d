"""Triton kernels, installed as ``pavdit.kernels``: one file per op, named like the op, none imports pavdit."""
