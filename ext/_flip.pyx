# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Flip-and-decode kernels: one pass over delta and baseline, block by block in the first-level cache."""

from libc.stdint cimport int16_t, int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset

cdef enum:
    WORDS = 255  # of 8 bytes: a byte-wise sum of the 0/1 flags of a block cannot overflow its byte
    BLOCK = 8 * WORDS
    # Lanes of a block's workspace, BLOCK bytes each. One base pointer with fixed offsets is what lets the compiler
    # vectorise: it can see that the lanes do not overlap.
    REFINED = 0  # bit r of a byte: the voxel is in region r
    BEFORE = 1  # the same of the baseline, then the bits that differ
    LABELS = 2
    LANES = 3

ctypedef fused value_t:
    float
    uint16_t


cdef inline int16_t ordered_f16(uint16_t bits) noexcept nogil:
    """Integer that sorts like the float16 with these bits: sign and magnitude → two's complement."""
    return <int16_t>bits ^ ((<int16_t>bits >> 15) & 0x7FFF)


cdef inline uint8_t painted(uint8_t under, uint8_t over, uint8_t here) noexcept nogil:
    """`over` where here is 1, else `under`, without a branch."""
    return under ^ ((under ^ over) & <uint8_t>(0 - here))


cdef void paint_f32(
    const float *delta, float threshold, const uint8_t *baseline, uint8_t bits, uint8_t label, uint8_t *lanes,
    Py_ssize_t n,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint8_t before, refined
    for i in range(n):
        before = baseline[i] != 0
        refined = before ^ (delta[i] > threshold)
        lanes[BEFORE * BLOCK + i] = painted(lanes[BEFORE * BLOCK + i], bits, before)
        lanes[REFINED * BLOCK + i] = painted(lanes[REFINED * BLOCK + i], bits, refined)
        lanes[LABELS * BLOCK + i] = painted(lanes[LABELS * BLOCK + i], label, refined)


cdef void paint_f16(
    const uint16_t *delta, int16_t threshold, const uint8_t *baseline, uint8_t bits, uint8_t label, uint8_t *lanes,
    Py_ssize_t n,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef int16_t key
    cdef uint8_t before, refined
    for i in range(n):
        key = ordered_f16(delta[i])  # above +inf lie the positive NaNs; the negative ones sort lowest
        before = baseline[i] != 0
        refined = before ^ ((key > threshold) & (key <= 0x7C00))
        lanes[BEFORE * BLOCK + i] = painted(lanes[BEFORE * BLOCK + i], bits, before)
        lanes[REFINED * BLOCK + i] = painted(lanes[REFINED * BLOCK + i], bits, refined)
        lanes[LABELS * BLOCK + i] = painted(lanes[LABELS * BLOCK + i], label, refined)


cdef inline uint64_t count_bit(const uint64_t *words, int bit) noexcept nogil:
    """How many bytes of a block have this bit."""
    cdef uint64_t total = 0
    cdef Py_ssize_t i
    for i in range(WORDS):
        total += (words[i] >> bit) & 0x0101010101010101ULL
    total = (total & 0x00FF00FF00FF00FFULL) + ((total >> 8) & 0x00FF00FF00FF00FFULL)
    return (total * 0x0001000100010001ULL) >> 48


def flip_rows(
    const value_t[:, :, :, :] delta,
    const uint8_t[:, :, :, :] baseline,
    const value_t[:] thresholds,
    const uint8_t[:] label_values,
    const uint8_t[:] membership,
    uint8_t[:, :, :, ::1] labels,
    int64_t[:, ::1] counts,
    Py_ssize_t start,
    Py_ssize_t stop,
):
    """Planes start…stop of axis 1 of delta and baseline (R, X, Y, Z) into labels (1, X, Y, Z).

    membership: for each region the bits of the regions that a voxel painted by it is in, itself and its ancestors; R is
    8 at most. float16 comes as its bits (uint16), its thresholds rounded down to float16. Adds voxels (row 0) and flips
    (row 1) per region to counts (2, R). Rows along Z that are not contiguous are gathered into block buffers.
    """
    cdef uint64_t words[LANES][WORDS]
    cdef uint8_t *lanes = <uint8_t *>words
    cdef value_t values[BLOCK]
    cdef uint8_t masks[BLOCK]
    cdef const value_t *row
    cdef const uint8_t *base
    cdef Py_ssize_t x, y, z, i, r, n, regions = delta.shape[0], length = delta.shape[3]
    cdef bint dense_delta = delta.strides[3] == sizeof(value_t)
    cdef bint dense_base = baseline.strides[3] == 1
    with nogil:
        for x in range(start, stop):
            for y in range(delta.shape[2]):
                z = 0
                while z < length:
                    n = min(length - z, <Py_ssize_t>BLOCK)
                    memset(lanes, 0, sizeof(words))
                    for r in range(regions):
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
                            paint_f32(row, thresholds[r], base, membership[r], label_values[r], lanes, n)
                        else:
                            paint_f16(row, ordered_f16(thresholds[r]), base, membership[r], label_values[r], lanes, n)
                    memcpy(&labels[0, x, y, z], lanes + LABELS * BLOCK, n)
                    for i in range(WORDS):
                        words[BEFORE][i] ^= words[REFINED][i]
                    for r in range(regions):
                        counts[0, r] += count_bit(words[REFINED], r)
                        counts[1, r] += count_bit(words[BEFORE], r)
                    z += n
