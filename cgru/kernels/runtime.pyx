"""What is asked once per process, compiled with baseline flags: the instruction sets that this CPU and system can
run."""

cdef extern from *:
    """
    #if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
      static int cgru_has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
      static int cgru_has_avx512(void) {
        return cgru_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")
            && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
      }
    #else
      static int cgru_has_avx2(void) { return 0; }
      static int cgru_has_avx512(void) { return 0; }
    #endif
    """
    bint cgru_has_avx2() nogil
    bint cgru_has_avx512() nogil


def supported_isas():
    """Names of the kernel builds that this CPU can run, best first."""
    isas = ["baseline"]
    if cgru_has_avx2():
        isas.insert(0, "avx2")
    if cgru_has_avx512():
        isas.insert(0, "avx512")
    return tuple(isas)
