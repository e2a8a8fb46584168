# Arrays as C sees them: where they are, how large and of which type. Included by calls.pyx.
#
# Typed memoryviews say the same, but what takes one of each type is compiled once for each, with a function before it
# that chooses: it made this module twice as large.

cdef struct View:
    char *data             # NULL where the array is None
    Py_ssize_t[3] shape
    Py_ssize_t[3] strides  # in elements
    char code              # of the type, as `struct` has it

cdef enum:
    FLOATING = 0   # either of two types
    SINGLE = 102   # the codes: "f"
    DOUBLE = 100   # "d"
    BYTES = 66     # "B"
    INDEX = 110    # "n", whatever the platform calls it
    STRIDED = 0    # what else is asked of the array: nothing,
    WHOLE = 1      # or C-contiguous
    WRITTEN = 2    # and writable


cdef int see(View *v, array, int ndim, int code, int asked) except -1:
    """Look at an array of `ndim` axes, or at None. Its caller keeps it alive; the array of another type, of other axes
    or of strides that are no whole elements is refused."""
    cdef Py_buffer b
    cdef const char *found
    cdef int flags = (PyBUF_C_CONTIGUOUS if asked & WHOLE else PyBUF_STRIDES) | PyBUF_FORMAT, i
    cdef bint fits
    memset(v, 0, sizeof(v[0]))
    if array is None:
        return 0
    PyObject_GetBuffer(array, &b, flags | (PyBUF_WRITABLE if asked & WRITTEN else 0))
    found = b.format
    if found == NULL:
        found = b"B"
    if found[0] == b"@" or found[0] == b"=" or found[0] == b"^":  # before what is not aligned
        found += 1
    v.code = found[0]
    if code == FLOATING:
        fits = v.code == SINGLE or v.code == DOUBLE
    elif code == INDEX:
        fits = b.itemsize == sizeof(Py_ssize_t) and (v.code == b"l" or v.code == b"q" or v.code == b"i")
    else:
        fits = v.code == code
    fits = fits and found[1] == 0 and b.ndim == ndim
    v.data = <char *>b.buf
    for i in range(ndim if fits else 0):
        v.shape[i], v.strides[i] = b.shape[i], b.strides[i] // b.itemsize
        fits = fits and (b.shape[i] < 2 or b.strides[i] % b.itemsize == 0)
    PyBuffer_Release(&b)
    if not fits:
        expected = "float32 or float64" if code == FLOATING else "type " + chr(code)
        raise ValueError(f"expected {ndim} axes of {expected}, whole elements apart, got {array!r}")
    return 0


cdef inline Py_ssize_t size_of(const View *v) noexcept nogil:
    """Bytes of an element of two types."""
    return 4 if v.code == SINGLE else 8
