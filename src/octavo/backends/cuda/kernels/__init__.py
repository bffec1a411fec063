"""Triton kernels. A file holds one operation; its twin in numpy is in tests/cuda/twins.py."""
