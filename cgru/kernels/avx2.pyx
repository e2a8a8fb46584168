"""The kernels compiled for the instruction set `avx2`; the one body is kernels.pxi, the flags stand in setup.py."""
ISA = "avx2"
include "kernels.pxi"
