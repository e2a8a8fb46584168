"""The kernels compiled for the instruction set `baseline`; the one body is kernels.pxi, the flags stand in setup.py."""
ISA = "baseline"
include "kernels.pxi"
