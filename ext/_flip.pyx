# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Flip-and-decode kernels: one pass over delta and baseline, block by block in the first-level cache."""

from libc.stdint cimport int16_t, int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset

cdef enum:
    WORDS = 255  # of 8 bytes: a byte-wise sum of the 0/1 flags of a block cannot overflow its byte
    BLOCK = 8 * WORDS
    # Lanes of a block's workspace, BLOCK bytes each, three regions per name. One base pointer with fixed offsets is
    # what lets the compiler vectorise: it can see that the lanes do not overlap.
    REFINED = 0
    FLIPPED = 3
    BEFORE = 6
    LABELS = 9
    LANES = 10

ctypedef fused value_t:
    float
    uint16_t


cdef inline int16_t ordered_f16(uint16_t bits) noexcept nogil:
    """Integer that sorts like the float16 with these bits: sign and magnitude → two's complement."""
    return <int16_t>bits ^ ((<int16_t>bits >> 15) & 0x7FFF)


cdef void flip_f32(
    const float *delta, float threshold, const uint8_t *baseline, uint8_t *refined, uint8_t *before, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        before[i] = baseline[i] != 0
        refined[i] = (baseline[i] != 0) ^ (delta[i] > threshold)


cdef void flip_f16(
    const uint16_t *delta, int16_t threshold, const uint8_t *baseline, uint8_t *refined, uint8_t *before, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t i
    cdef int16_t key
    for i in range(n):
        key = ordered_f16(delta[i])  # above +inf lie the positive NaNs; the negative ones sort lowest
        before[i] = baseline[i] != 0
        refined[i] = (baseline[i] != 0) ^ ((key > threshold) & (key <= 0x7C00))


cdef void decode(uint8_t *lanes, uint8_t wt_only, uint8_t tc_only, uint8_t et_value, Py_ssize_t n) noexcept nogil:
    """Nest the regions before and after by priority; flips and labels from them."""
    cdef Py_ssize_t i
    cdef uint8_t w, t, e, bw, bt, be
    cdef uint8_t tc_step = wt_only ^ tc_only
    cdef uint8_t et_step = tc_only ^ et_value
    for i in range(n):
        be = lanes[(BEFORE + 2) * BLOCK + i]
        bt = lanes[(BEFORE + 1) * BLOCK + i] | be
        bw = lanes[BEFORE * BLOCK + i] | bt
        e = lanes[(REFINED + 2) * BLOCK + i]
        t = lanes[(REFINED + 1) * BLOCK + i] | e
        w = lanes[REFINED * BLOCK + i] | t
        lanes[(REFINED + 1) * BLOCK + i] = t
        lanes[REFINED * BLOCK + i] = w
        lanes[FLIPPED * BLOCK + i] = w ^ bw
        lanes[(FLIPPED + 1) * BLOCK + i] = t ^ bt
        lanes[(FLIPPED + 2) * BLOCK + i] = e ^ be
        lanes[LABELS * BLOCK + i] = (
            (<uint8_t>(0 - w) & wt_only) ^ (<uint8_t>(0 - t) & tc_step) ^ (<uint8_t>(0 - e) & et_step)
        )


cdef inline uint64_t byte_sum(const uint64_t *words) noexcept nogil:
    cdef uint64_t total = 0
    cdef Py_ssize_t i
    for i in range(WORDS):
        total += words[i]
    total = (total & 0x00FF00FF00FF00FFULL) + ((total >> 8) & 0x00FF00FF00FF00FFULL)
    return (total * 0x0001000100010001ULL) >> 48


def flip_rows(
    const value_t[:, :, :, :] delta,
    const uint8_t[:, :, :, :] baseline,
    const value_t[:] thresholds,
    const uint8_t[:] label_values,
    uint8_t[:, :, :, ::1] labels,
    int64_t[:, ::1] counts,
    Py_ssize_t start,
    Py_ssize_t stop,
):
    """Planes start…stop of axis 1 of delta and baseline (3, X, Y, Z) into labels (1, X, Y, Z).

    float16 comes as its bits (uint16), its thresholds rounded down to float16. Adds voxels (row 0) and flips (row 1)
    per region to counts (2, 3). Rows along Z that are not contiguous are gathered into block buffers.
    """
    cdef uint64_t words[LANES][WORDS]
    cdef uint8_t *lanes = <uint8_t *>words
    cdef value_t values[BLOCK]
    cdef uint8_t masks[BLOCK]
    cdef const value_t *row
    cdef const uint8_t *base
    cdef Py_ssize_t x, y, z, i, r, n, length = delta.shape[3]
    cdef bint dense_delta = delta.strides[3] == sizeof(value_t)
    cdef bint dense_base = baseline.strides[3] == 1
    with nogil:
        for x in range(start, stop):
            for y in range(delta.shape[2]):
                z = 0
                while z < length:
                    n = min(length - z, <Py_ssize_t>BLOCK)
                    if n < BLOCK:  # a shorter block must not count what the last one left behind
                        memset(lanes, 0, sizeof(words))
                    for r in range(3):
                        row = &delta[r, x, y, z]
                        base = &baseline[r, x, y, z]
                        if not dense_delta:
                            for i in range(n):
                                values[i] = delta[r, x, y, z + i]
                            row = values
                        if not dense_base:
                            for i in range(n):
                                masks[i] = baseline[r, x, y, z + i]
                            base = masks
                        if value_t is float:
                            flip_f32(
                                row, thresholds[r], base,
                                lanes + (REFINED + r) * BLOCK, lanes + (BEFORE + r) * BLOCK, n,
                            )
                        else:
                            flip_f16(
                                row, ordered_f16(thresholds[r]), base,
                                lanes + (REFINED + r) * BLOCK, lanes + (BEFORE + r) * BLOCK, n,
                            )
                    decode(lanes, label_values[0], label_values[1], label_values[2], n)
                    memcpy(&labels[0, x, y, z], lanes + LABELS * BLOCK, n)
                    for r in range(3):
                        counts[0, r] += byte_sum(words[REFINED + r])
                        counts[1, r] += byte_sum(words[FLIPPED + r])
                    z += n


def xor_rows(const uint8_t[::1] baseline, const uint8_t[::1] delta, uint8_t[::1] refined):
    """refined = |baseline - delta| of 0/1 masks: 1 where exactly one of them is not 0."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(baseline.shape[0]):
            refined[i] = (baseline[i] != 0) ^ (delta[i] != 0)
