"""The kernels compiled for the instruction set `avx512`; the one body is kernels.pxi, the flags stand in setup.py."""
ISA = "avx512"
include "kernels.pxi"
