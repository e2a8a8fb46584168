"""Row-major matrix products over SciPy's BLAS. The only file that cimports cython_blas and that knows BLAS is
column-major."""

from cython cimport floating
from scipy.linalg.cython_blas cimport dgemm, sgemm

# SciPy 1.18 names this type blas_int; sizes are checked against its maximum where arrays enter (recurrence.py,
# products.pxi).
ctypedef int blas_int


cdef inline void gemm(
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const floating *a, Py_ssize_t lda, bint transpose_a,  # op(A): (m, k)
    const floating *b, Py_ssize_t ldb, bint transpose_b,  # op(B): (k, n)
    floating *c, Py_ssize_t ldc,                          # C: (m, n)
    floating beta,
) noexcept nogil:
    """C := op(A) op(B) + beta C, all row-major; ld*: elements from one stored row to the next.

    A row-major matrix is its transpose in column-major order, so the factors change places: C^T = op(B)^T op(A)^T.
    """
    # BLAS takes pointers to everything and has no const; it writes C alone.
    cdef char op_a = b"t" if transpose_a else b"n"
    cdef char op_b = b"t" if transpose_b else b"n"
    cdef blas_int m_ = <blas_int>m, n_ = <blas_int>n, k_ = <blas_int>k
    cdef blas_int lda_ = <blas_int>lda, ldb_ = <blas_int>ldb, ldc_ = <blas_int>ldc
    cdef floating one = 1
    if m == 0 or n == 0:
        return
    if floating is float:
        sgemm(&op_b, &op_a, &n_, &m_, &k_, &one, <float *>b, &ldb_, <float *>a, &lda_, &beta, c, &ldc_)
    else:
        dgemm(&op_b, &op_a, &n_, &m_, &k_, &one, <double *>b, &ldb_, <double *>a, &lda_, &beta, c, &ldc_)
