# How a call is shared: by one thread or several, by rows or units, as calls of its kind have shown to be fast. Included
# by calls.pyx.
#
# No constant knows what a meeting of threads costs: it differs by machine and by moment, and with processors that
# others use it grows a hundredfold. So calls are timed, and a table remembers for each kind of call (its sizes, whether
# workers were awake) which way was the fastest, and how the others compared when they were tried: early, and now and
# then afterwards, the rarer the worse they were. Ratios are kept, not times, since the whole machine's speed drifts.
# The way changes no bit of a result.

from libc.stdint cimport int64_t, uint64_t

cdef enum:
    LEVELS = 6             # 2, 4, ..., 64 threads
    WAYS = 2 + 2 * LEVELS  # alone; by units and by rows at each level; two calls at once
    ALONE = 0
    ONCE = WAYS - 1
    KINDS = 512            # remembered at a time
    TRIES = 3              # of a way, before it counts, the median of them; one that takes over three times as long
    PROBE = 32             # calls between two trials
    ROUSE_NS = 50000000    # time between two wakings for trials

cdef struct Kind:
    uint64_t key             # of the calls; 0: none
    int best                 # way
    int calls, due           # so far; and when something is tried again
    int turn                 # the candidate that is next
    int slow                 # calls in a row that took more than twice the usual time
    bint doubt               # whether the best way is suddenly slow, and working alone is tried at once
    int known                # times of the best way, in `times`
    double[5] times          # ns a row and step
    double usual             # their median
    unsigned char[16] tries  # of each way
    float[48] ratios         # TRIES of each way: its time by the usual time of the best

cdef Kind[KINDS] kinds
cdef int choosing = 0  # one thread at a time; the others do not wait for it
cdef int64_t roused = 0  # when workers were last woken to try what short calls gain of them

cdef extern from "platform.h" nogil:
    int CGRU_SWAP(int v, int to) noexcept
    int CGRU_STORE(int v, int to) noexcept


cdef inline int level_of(int way) noexcept nogil:
    return (way + 1) // 2


cdef inline bint is_rows(int way) noexcept nogil:
    return way != ALONE and way != ONCE and way % 2 == 0


cdef inline int threads_of(int way, int threads) noexcept nogil:
    if way == ALONE:
        return 1
    return threads if way == ONCE else min(threads, 1 << level_of(way))


cdef inline uint64_t mixed(uint64_t key, uint64_t value) noexcept nogil:
    key = (key ^ value) * <uint64_t>0x9E3779B97F4A7C15
    return key ^ (key >> 29)


cdef inline float median_of_three(const float *v) noexcept nogil:
    return max(min(v[0], v[1]), min(max(v[0], v[1]), v[2]))


cdef inline double median_of(const double *v, int n) noexcept nogil:
    """Of at most five."""
    cdef double[5] sorted_
    cdef int i, k
    for i in range(n):
        k = i
        while k > 0 and sorted_[k - 1] > v[i]:
            sorted_[k] = sorted_[k - 1]
            k -= 1
        sorted_[k] = v[i]
    return sorted_[n // 2]


cdef struct Choice:
    int way
    int threads      # of that way
    int64_t started
    uint64_t key     # 0: the call is not timed
    double slow      # ns a row and step beyond which a block of it is too slow to go on so; 0: unknown


cdef inline int candidate(
    const Kind *kind, int turn, int threads, bint by_units, bint by_rows, bint pair
) noexcept nogil:
    """The turn-th way beside the best one that is worth a trial; -1 after the last."""
    cdef int top = 0, way, level = level_of(kind.best), near
    while (1 << top) < threads:
        top += 1
    for way in range(WAYS):
        if way == kind.best:
            continue
        if way == ONCE:
            if not pair:
                continue
        elif way != ALONE:
            near = level_of(way)
            if near > top or not (by_rows if is_rows(way) else by_units):
                continue
            # Of the levels, those beside the best one's; from alone and at once, the highest and the lowest.
            if kind.best == ALONE or kind.best == ONCE:
                if near != top and near != 1:
                    continue
            elif near < level - 1 or near > level + 1:
                continue
        if turn == 0:
            return way
        turn -= 1
    return -1


cdef int chosen_way(
    Kind *kind, uint64_t key, int first, int threads, bint by_units, bint by_rows, bint pair
) noexcept nogil:
    cdef int way, i
    cdef float worse
    if kind.key != key:
        memset(kind, 0, sizeof(Kind))
        kind.key, kind.best, kind.due = key, first, PROBE
    kind.calls += 1
    if kind.calls <= 2:
        return kind.best
    if kind.doubt:
        return ALONE
    if kind.calls % 2 == 0:
        i = 0
        while True:
            way = candidate(kind, i, threads, by_units, by_rows, pair)
            if way < 0:
                break
            if kind.tries[way] < TRIES:
                return way
            i += 1
    if kind.calls >= kind.due:
        kind.turn += 1
        way = candidate(kind, kind.turn, threads, by_units, by_rows, pair)
        if way < 0:
            kind.turn = 0
            way = candidate(kind, 0, threads, by_units, by_rows, pair)
        if way >= 0:
            worse = 4 * (median_of_three(kind.ratios + TRIES * way) - 1)
            kind.due = kind.calls + <int>(PROBE * max(1.0, min(8.0, worse)))
            return way
        kind.due = kind.calls + PROBE
    return kind.best


cdef void remember(Kind *kind, int way, double time) noexcept nogil:
    """A call of this kind took so long a row and step."""
    cdef float ratio, quick
    cdef int i, other
    if way == kind.best:
        kind.slow = kind.slow + 1 if kind.known >= 3 and time > 2 * kind.usual else 0
        kind.times[kind.calls % 5 if kind.known == 5 else kind.known] = time
        kind.known = min(5, kind.known + 1)
        kind.usual = median_of(kind.times, kind.known)
        if kind.slow == 3 and way != ALONE:
            kind.slow, kind.tries[ALONE], kind.doubt, kind.usual = 0, 0, True, time
            for i in range(kind.known):
                kind.times[i] = time
        return
    if kind.known == 0:
        return
    ratio = <float>max(0.05, min(20.0, time / kind.usual))
    for i in range(TRIES - 1, 0, -1):
        kind.ratios[TRIES * way + i] = kind.ratios[TRIES * way + i - 1]
    kind.ratios[TRIES * way] = ratio
    kind.tries[way] = min(kind.tries[way] + 1, 100)
    if kind.tries[way] < TRIES and ratio > 3 and not kind.doubt:
        kind.tries[way] = TRIES
        for i in range(1, TRIES):
            kind.ratios[TRIES * way + i] = ratio
    if kind.doubt:
        if kind.tries[ALONE] < 2:
            return
        kind.doubt = False
        ratio = max(ratio, kind.ratios[TRIES * ALONE + 1])
        kind.ratios[TRIES * ALONE + 2] = ratio
        kind.tries[ALONE] = TRIES
    elif kind.tries[way] < TRIES:
        return
    else:
        quick = ratio
        ratio = median_of_three(kind.ratios + TRIES * way)
        if quick <= 0.97 < ratio:  # a surprise: once more, soon
            kind.due = kind.calls + 2
            kind.turn -= 1
    if ratio > 0.97:
        return
    # It is the best from now on; the others compare with it.
    for other in range(WAYS):
        for i in range(TRIES):
            kind.ratios[TRIES * other + i] /= ratio
    for i in range(TRIES):
        kind.ratios[TRIES * kind.best + i] = 1 / ratio
    kind.tries[kind.best] = TRIES
    kind.best = way
    kind.usual *= ratio
    for i in range(kind.known):
        kind.times[i] = kind.usual
    kind.slow = 0
    kind.due = kind.calls + PROBE // 2


cdef inline uint64_t key_with(uint64_t key, Py_ssize_t steps, Py_ssize_t enough, bint ready) noexcept nogil:
    """The key of calls of about as many steps. If workers are ready, `enough` of them stand for all that are more; else
    a part of the call is over before they come."""
    cdef int length = 0
    if ready and steps > enough:
        steps = enough
    while steps > 1:
        steps //= 2
        length += 1
    return mixed(mixed(key, <uint64_t>length), 1 if ready else 2)


cdef Choice choose(
    uint64_t key, Py_ssize_t steps, Py_ssize_t enough, Py_ssize_t work, int threads, int first, int first_awake,
    bint by_units, bint by_rows, bint pair,
) noexcept nogil:
    """How to share a call, which begins here; `finish` ends it.

    key: of its kind, but for the number of its steps, see `key_with`. work: its multiplications. threads: the most.
    first: the way where nothing is known; first_awake: if workers are awake. by_units, by_rows: whether it can be
    shared so. pair: two calls that may run at once.
    """
    global roused
    cdef Choice choice
    cdef Kind *kind
    cdef int ready, wake = 0
    cdef int64_t idle
    choice.way, choice.threads, choice.key, choice.slow, choice.started = ALONE, 1, 0, 0, 0
    if not limits.measured:
        choice.way = first
        choice.threads = threads_of(first, threads)
        begin(choice.threads, choice.threads - 1, now())
        return choice
    if threads < 2 or work < limits.small_work // 2 or not (by_units or by_rows or pair):
        return choice
    choice.started = now()
    threads = min(threads, processors(choice.started))
    if threads < 2:
        return choice
    idle = gap()
    ready = awake(2, choice.started)
    if ready < 2 and work < limits.cold_work:
        # Too short to be worth waking somebody for, unless it is one of many.
        if idle < limits.close_ns:
            key = key_with(key, steps, enough, True)
            kind = &kinds[key % KINDS]
            if CGRU_SWAP(choosing, 1) == 0:
                if kind.key == key and kind.best != ALONE:
                    wake = threads - 1
                elif choice.started - roused > ROUSE_NS:  # to try: rarely, since who is awake for nothing takes power
                    wake = threads - 1
                    roused = choice.started
                CGRU_STORE(choosing, 0)
        choice.key = 1  # not remembered, but timed
        begin(1, wake, choice.started)
        return choice
    key = key_with(key, steps, enough, ready == 2)
    kind = &kinds[key % KINDS]
    if CGRU_SWAP(choosing, 1) == 0:
        choice.key = key
        choice.way = chosen_way(
            kind, key, first_awake if ready == 2 else first, threads, by_units, by_rows, pair)
        if kind.known >= 3 and kind.best == ALONE:
            choice.slow = 4 * kind.usual
        elif kind.tries[ALONE] >= TRIES and kind.known:
            choice.slow = 4 * kind.usual * median_of_three(kind.ratios + TRIES * ALONE)
        CGRU_STORE(choosing, 0)
    choice.threads = threads_of(choice.way, threads)
    begin(choice.threads, choice.threads - 1, choice.started)
    return choice


cdef void finish(const Choice *choice, Py_ssize_t rows, bint whole) noexcept nogil:
    """The call has ended; `rows`: packed rows; `whole`: it was not interrupted, and went as chosen."""
    cdef Kind *kind
    cdef int64_t time
    if choice.key == 0:
        if not limits.measured:
            end(choice.threads, now())
        return
    time = now()
    end(choice.threads, time)
    if choice.key == 1 or not whole:
        return
    kind = &kinds[choice.key % KINDS]
    if CGRU_SWAP(choosing, 1) == 0:
        if kind.key == choice.key and kind.calls > 1:
            remember(kind, choice.way, (time - choice.started) / <double>rows)
        CGRU_STORE(choosing, 0)


def forget():
    """Forget which ways were fast; for tests and benchmarks."""
    memset(kinds, 0, sizeof(kinds))


def length_key(Py_ssize_t steps, Py_ssize_t enough, bint ready):
    """The key of calls of so many steps that are of one kind else; for tests."""
    return key_with(0, steps, enough, ready)


def rehearse(time_of, int calls, int first, int threads, *, bint by_units=False, bint by_rows=False, bint pair=False):
    """The ways that so many calls of a kind choose, where one by way w takes time_of(number, w); for tests."""
    cdef Kind kind
    cdef int i, way
    memset(&kind, 0, sizeof(Kind))
    ways = []
    for i in range(calls):
        way = chosen_way(&kind, 1, first, threads, by_units, by_rows, pair)
        ways.append(way)
        if kind.calls > 1:
            remember(&kind, way, time_of(i, way))
    return ways
