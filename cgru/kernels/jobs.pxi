# Jobs: all that a pass knows, as the threads that share it see it. Types are void, because C structs cannot be fused.

cdef struct Sharing:
    bint by_rows
    int threads
    Py_ssize_t range_rows  # of a task, by rows


cdef struct Forward:
    Schedule s
    Py_ssize_t D, H, Hp, G  # G: elements of a row of gates
    bint reset_after, training, single  # single: float32
    int f, g
    Sharing way
    Matrix W, U
    const void *x
    const void *bias
    void *y
    void *h
    void *gates   # (M, G) the tape's; in inference (slots, scratch_rows, G)
    void *states  # (N + M, Hp) the tape's; in inference two times (N, Hp), in turns
    void *reset   # (N, Hp) r * h
    void *rows    # (slots, N, D) input rows brought together
    Py_ssize_t xn, xt, yn, yt, scratch_rows
    Py_ssize_t k0, k1  # the block of steps
    cgru_team *team


cdef struct Backward:
    Forward forward          # the sizes, the tape and x
    Matrix U_back            # U^T: (3H, H), rows r z n
    Matrix W_back            # W^T: (3H, D), rows n r z
    Route batched            # of the large products
    const void *dy
    void *dx
    void *dh0                # (N, H) out
    void *dh                 # (N, Hp) of the state, sorted rows
    void *dg                 # (block, G) n r z q or n r z
    void *ds                 # (N, Hp) of r * h
    void *x_block            # (block, D)
    void *h_block            # (block, Hp) the states before each packed row
    void *reset_block        # (block, Hp) r * h
    void *dx_block           # (block, Dp)
    void *dkernel            # (D, 3Hp) n r z
    void *drecurrent_kernel  # (H, 3Hp) r z n
    void *dbias              # (G,) as a row of dg
    void *bias_block         # (G,)
    void *panels             # (slots, block, panel) of dg
    Py_ssize_t Dp, dyn, dyt, dxn, dxt, most
    double[5] f64
    double[5] g64
    float[5] f32
    float[5] g32


cdef class Call:
    """What `forward` and `backward` prepare and `run_calls` runs. It points to arrays that its maker keeps alive."""
    cdef Backward job  # in a forward pass only its `forward`
    cdef bint backward, finished

    def __cinit__(self):
        memset(&self.job, 0, sizeof(self.job))
        self.backward = self.finished = False

    cdef Py_ssize_t work(self) noexcept:
        """Multiplications of the forward pass."""
        cdef Forward *j = &self.job.forward
        return offset(&j.s, j.s.K) * 3 * j.H * (j.D + j.H)

    cdef bint by_blas(self) noexcept:
        cdef Matrix *state = &self.job.U_back if self.backward else &self.job.forward.U
        cdef Matrix *inputs = &self.job.W_back if self.backward else &self.job.forward.W
        return state.route == BLAS or inputs.route == BLAS
