# The kernels; included by one stub for each instruction set.
#
# Design: one layer, one direction. A step writes x W into the rows of its gates, adds h U to them (projection.pxd:
# packed tile or BLAS) and transforms them in place, row by row (gates.pxd). The rows of a batch do not depend on each
# other, and the units of a step only through the state, so a part of the work is a range of rows and a range of units:
# with many rows each thread takes rows through all steps and meets nobody (forward_rows), with few rows each takes
# units, keeps their weights in its own cache, and the team meets once or twice a step (forward_units). Both run the
# same step. Backward walks blocks of steps from the last to the first: first the gradients of a block's gates, by rows
# or by units as above, then the large products of the block, cut by their output, so that every sum has one order
# whatever the number of threads.
#
# What stands here knows jobs (jobs.pxd) and no Python: it allocates, checks and raises nothing, and is compiled for
# each instruction set. calls.pyx, compiled once, makes the jobs and runs what `table` names. Arrays of the batch (x, y,
# dx, dy) may have any stride for rows and times (a negative time stride is the reverse direction), only their features
# are contiguous. Inside, units are padded to whole vectors, Hp; what the padding holds, be it NaN,
# takes part in nothing: sums run over D and H. Packed rows, M of them, are those of schedule.pxd.

from cpython.pycapsule cimport PyCapsule_New
from cython cimport floating
from libc.math cimport sqrt, sqrtf
from libc.stdint cimport uint16_t
from libc.string cimport memcpy, memset

from activations cimport fma
from blas cimport gemm as blas_gemm
from gates cimport (
    SLOPE_TERMS,
    add,
    add_times,
    candidate_backward,
    candidate_forward,
    gates_forward,
    reset_after_backward,
    reset_after_forward,
    reset_before_backward,
    reset_before_forward,
    row_t,
    slope,
    slope_terms,
    times,
    zones_backward,
    zones_expected,
    zones_expected_backward,
    zones_forward,
)
from jobs cimport (
    ACTIVATION,
    ADAM,
    BLAS,
    CENTERED,
    CENTERED_MOMENTUM,
    CODES,
    CROSSENTROPY,
    GATHER,
    GRADIENT,
    KEPT,
    MOMENTUM,
    NESTEROV,
    PACKED,
    RMSPROP,
    RMSPROP_MOMENTUM,
    SCALES_F32,
    SCATTER,
    SGD,
    SOFTMAX,
    SOFTMAX_FORWARD,
    SQUARES,
    TERMS,
    WORDS,
    Backward,
    Build,
    Forward,
    Matrix,
    Packing,
    Product,
    Random,
    Rows,
    Update,
    cgru_team,
    emit,
    itemsize_of,
    matrix,
)
from narrow cimport cgru_has_dots, multiply_encoded, multiply_narrow, narrow_widen
from norm cimport (
    add_gain_gradient,
    add_gradient_sums,
    normalised,
    normalised_backward,
    normalised_sum,
    statistics,
)
from projection cimport (
    CGRU_FAR_ROWS,
    CGRU_TILE_ROWS,
    CGRU_TILE_VECTORS,
    CGRU_VECTOR_BYTES,
    lanes,
    multiply,
    padded,
    panel_width,
    tile,
)
from schedule cimport count, offset, place
from softmax cimport (
    SUMS,
    added_up,
    biased_maximum,
    clear,
    exponentials,
    first_largest,
    larger,
    products_sum,
    scaled,
    scaled_twice,
    softmax_backward,
)

cdef extern from "team.h" nogil:
    ctypedef struct cgru_member:
        cgru_team *team
        int id
        int turn
    int cgru_join(cgru_team *team, int wanted, int patience) noexcept
    void cgru_arrive(cgru_member *me) noexcept
    void cgru_await(const cgru_member *me) noexcept

cdef extern from "platform.h" nogil:
    enum:
        CGRU_FUSES
    unsigned cgru_flush_denormals() noexcept
    void cgru_restore_denormals(unsigned was) noexcept


cdef inline void meet(cgru_member *me) noexcept nogil:
    """Wait for the whole team, if there is one."""
    if me != NULL:
        cgru_arrive(me)
        cgru_await(me)


include "packing.pxi"
include "product.pxi"
include "rows.pxi"
include "update.pxi"
include "random.pxi"
include "normed.pxi"
include "forward.pxi"
include "backward.pxi"


cdef void activate(int f, bint single, Py_ssize_t n, void *gates) noexcept nogil:
    cdef double[512] zeros  # the bias, of either type
    memset(<double *>zeros, 0, sizeof(zeros))
    if single:
        gates_forward(f, n, <float *>gates, <float *><void *>zeros)
    else:
        gates_forward(f, n, <double *>gates, <double *>zeros)


cdef void widen(bint halves, Py_ssize_t n, const void *weights, float *out) noexcept nogil:
    cdef unsigned was = cgru_flush_denormals()
    narrow_widen(halves, n // lanes(4), lanes(4), <const uint16_t *>weights, lanes(4), out)
    cgru_restore_denormals(was)


cdef Build table
table.vector_bytes, table.tile_rows, table.tile_vectors = CGRU_VECTOR_BYTES, CGRU_TILE_ROWS, CGRU_TILE_VECTORS
table.far_rows, table.fuses, table.dots = CGRU_FAR_ROWS, CGRU_FUSES, cgru_has_dots()
table.pack, table.activate, table.widen = pack_task, activate, widen
table.product, table.rows, table.update, table.random = product_task, rows_task, update_task, random_task
table.forward, table.step = forward_task, forward_step
table.backward_gates, table.backward_turn, table.turn_tasks = backward_gates_task, backward_turn_task, turn_tasks
table.backward_large, table.large_tasks = backward_large_task, large_tasks
build = PyCapsule_New(&table, "cgru.kernels.build", NULL)
