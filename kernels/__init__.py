"""Triton kernels, installed as ``pavdit.kernels``: one file per op, named like it; none imports pavdit."""
