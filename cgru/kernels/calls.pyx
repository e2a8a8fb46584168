"""What Python calls: arrays become jobs (jobs.pxd), and a build of the kernels, chosen by `use`, runs them.

Nothing here checks or allocates more than a call's own objects: recurrence.py does. A debug build asserts what is asked
of the arrays. The bodies of the kernels are in kernels.pxi, compiled for each instruction set; this module needs none.
"""

import numpy as np

from cgru.kernels import runtime

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.pycapsule cimport PyCapsule_GetPointer
from cython cimport floating
from libc.stdint cimport uint32_t
from libc.string cimport memcmp, memcpy, memset

from blas cimport gemm as blas_gemm
from cgru.kernels.runtime cimport awake, backend, begin, end, gap, now, park, processors, run
from gates cimport slope_terms
from jobs cimport (
    ACTIVATION,
    BFLOAT,
    BLAS,
    CODES,
    CROSSENTROPY,
    GATHER,
    GRADIENT,
    HALF,
    PACKED,
    PIECE_ROWS,
    SCATTER,
    SOFTMAX,
    SOFTMAX_FORWARD,
    SQUARES,
    TERMS,
    Backward,
    Build,
    Forward,
    Limits,
    Matrix,
    Packing,
    Product,
    Random,
    Route,
    Rows,
    Sharing,
    Update,
    cgru_team,
    emit,
    itemsize_of,
    matrix,
    task_t,
)
from schedule cimport Schedule, batch_row, block_end, block_start_before, count, offset

cdef extern from "team.h" nogil:
    void cgru_clear(cgru_team *team, int wanted) noexcept

BLAS_MOST = 2**31 - 1  # sizes and strides that BLAS' integers hold

cdef Build build  # in use; `use` sets it before anything else is called


def use(capsule):
    """Run everything from here on by this build of the kernels: its module's `build`."""
    global build
    build = (<Build *>PyCapsule_GetPointer(capsule, "cgru.kernels.build"))[0]
    limits.dots = build.dots


def fuses():
    """Whether the build in use fuses multiplications with additions: all builds that do give the same bits."""
    return bool(build.fuses)


cdef inline Py_ssize_t lanes(Py_ssize_t itemsize) noexcept nogil:
    """Elements of a vector."""
    return build.vector_bytes // itemsize


cdef inline Py_ssize_t padded(Py_ssize_t n, Py_ssize_t itemsize) noexcept nogil:
    """n rounded up to whole vectors."""
    return (n + lanes(itemsize) - 1) // lanes(itemsize) * lanes(itemsize)


cdef inline Py_ssize_t panel_width(Py_ssize_t itemsize) noexcept nogil:
    return build.tile_vectors * lanes(itemsize)


cdef enum:
    ALIGN = 16  # elements by which the parts of a workspace are aligned: 64 bytes of float


cdef inline Py_ssize_t aligned(Py_ssize_t n) noexcept nogil:
    return (n + ALIGN - 1) // ALIGN * ALIGN


cdef inline char *first_aligned(const void *work) noexcept nogil:
    """The first 64-byte boundary of a workspace, which is ALIGN elements longer than its parts."""
    return <char *>((<size_t>work + 63) // 64 * 64)


cdef inline void *carve(char **work, Py_ssize_t n, Py_ssize_t itemsize) noexcept nogil:
    """The next n elements of the workspace."""
    cdef char *part = work[0]
    work[0] += aligned(n) * itemsize
    return part


include "views.pxi"
include "choice.pxi"
include "sharing.pxi"
include "products.pxi"
include "passes.pxi"
include "blocks.pxi"
include "handle.pxi"
include "dense.pxi"
include "pairs.pxi"
include "masks.pxi"
