# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Surface elements and exact nearest-surface distances on bit-packed rows.

A mask is cropped and packed to one bit per voxel along its last axis, with one empty voxel around. Surfaces are then
found 64 voxels at a time, and the nearest element of the other surface is searched outwards from each element, rows
first, then blocks of 8 × 8 × 8. The work grows with the surfaces, not with the volume.
"""

from libc.math cimport sqrt
from libc.stdint cimport int32_t, uint8_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <stdint.h>
    #ifdef _MSC_VER
    #include <intrin.h>
    static int lowest_bit(uint64_t w) { unsigned long i; _BitScanForward64(&i, w); return (int)i; }
    static int highest_bit(uint64_t w) { unsigned long i; _BitScanReverse64(&i, w); return (int)i; }
    static int bit_count(uint64_t w) { int n = 0; while (w) { w &= w - 1; n++; } return n; }
    #else
    static inline int lowest_bit(uint64_t w) { return __builtin_ctzll(w); }
    static inline int highest_bit(uint64_t w) { return 63 - __builtin_clzll(w); }
    static inline int bit_count(uint64_t w) { return __builtin_popcountll(w); }
    #endif
    """
    int lowest_bit(uint64_t w) noexcept nogil
    int highest_bit(uint64_t w) noexcept nogil
    int bit_count(uint64_t w) noexcept nogil


cdef inline uint64_t eight(const uint8_t *row, Py_ssize_t n) noexcept nogil:
    """The next n ≤ 8 voxels as the bytes of a word, the first one lowest."""
    cdef uint64_t word = 0
    if n >= 8:
        memcpy(&word, row, 8)
    else:
        memcpy(&word, row, n)
    return word


def bounds(const uint8_t[:, :, ::1] mask, Py_ssize_t[:, ::1] box):
    """Widen box (3, 2), first and past-the-last index per axis, to hold the foreground of mask."""
    cdef Py_ssize_t X = mask.shape[0], Y = mask.shape[1], Z = mask.shape[2], x, y, z
    cdef const uint8_t *row
    cdef uint64_t any_voxel, word
    with nogil:
        for x in range(X):
            for y in range(Y):
                row = &mask[x, y, 0]
                any_voxel = 0
                for z in range(Z >> 3):
                    memcpy(&word, row + 8 * z, 8)
                    any_voxel |= word
                any_voxel |= eight(row + (Z & ~7), Z & 7)
                if any_voxel == 0:
                    continue
                box[0, 0] = min(box[0, 0], x)
                box[0, 1] = x + 1 if x + 1 > box[0, 1] else box[0, 1]
                box[1, 0] = min(box[1, 0], y)
                box[1, 1] = max(box[1, 1], y + 1)
                z = 0
                while row[z] == 0:
                    z += 1
                box[2, 0] = min(box[2, 0], z)
                z = Z
                while row[z - 1] == 0:
                    z -= 1
                box[2, 1] = max(box[2, 1], z)


def pack(const uint8_t[:, :, ::1] mask, const Py_ssize_t[:, ::1] box, uint64_t[:, :, ::1] bits):
    """Foreground of mask within box → bits (X + 2, Y + 2, words), zeros before; voxel 0 of the box is bit 1."""
    cdef Py_ssize_t x, y, z, n, place, Z = box[2, 1] - box[2, 0]
    cdef const uint8_t *row
    cdef uint64_t *out
    cdef uint64_t word
    with nogil:
        for x in range(box[0, 0], box[0, 1]):
            for y in range(box[1, 0], box[1, 1]):
                row = &mask[x, y, box[2, 0]]
                out = &bits[x - box[0, 0] + 1, y - box[1, 0] + 1, 0]
                z = 0
                while z < Z:
                    word = eight(row + z, Z - z)
                    if word != 0:
                        # bytes that are not 0 → 1, then bit i of the top byte is byte i
                        word = ((((word & 0x7F7F7F7F7F7F7F7FULL) + 0x7F7F7F7F7F7F7F7FULL) | word) >> 7)
                        word = ((word & 0x0101010101010101ULL) * 0x0102040810204080ULL) >> 56
                        place = (z + 1) & 63
                        out[(z + 1) >> 6] |= word << place
                        if place > 56 and word >> (64 - place) != 0:
                            out[((z + 1) >> 6) + 1] |= word >> (64 - place)
                    z += 8


cdef inline uint64_t after(const uint64_t *row, Py_ssize_t w, Py_ssize_t words) noexcept nogil:
    """Word w of the row, every voxel replaced by the next one."""
    return (row[w] >> 1) | (row[w + 1] << 63 if w + 1 < words else 0)


cdef inline uint64_t before(const uint64_t *row, Py_ssize_t w) noexcept nogil:
    """Word w of the row, every voxel replaced by the one before."""
    return (row[w] << 1) | (row[w - 1] >> 63 if w > 0 else 0)


def find_surfels(const uint64_t[:, :, ::1] bits, uint64_t[:, :, ::1] surface):
    """Positions whose 2 × 2 × 2 voxels, themselves and the next ones, are neither all in nor all out. Returns how many."""
    cdef Py_ssize_t x, y, w, words = bits.shape[2], count = 0
    cdef const uint64_t *a
    cdef const uint64_t *b
    cdef const uint64_t *c
    cdef const uint64_t *d
    cdef uint64_t a1, b1, c1, d1, found
    with nogil:
        for x in range(bits.shape[0] - 1):
            for y in range(bits.shape[1] - 1):
                a, b, c, d = &bits[x, y, 0], &bits[x, y + 1, 0], &bits[x + 1, y, 0], &bits[x + 1, y + 1, 0]
                for w in range(words):
                    a1, b1, c1, d1 = after(a, w, words), after(b, w, words), after(c, w, words), after(d, w, words)
                    found = (a[w] | b[w] | c[w] | d[w] | a1 | b1 | c1 | d1) & ~(
                        a[w] & b[w] & c[w] & d[w] & a1 & b1 & c1 & d1
                    )
                    surface[x, y, w] = found
                    count += bit_count(found)
    return count


def find_border_voxels(const uint64_t[:, :, ::1] bits, uint64_t[:, :, ::1] surface):
    """Foreground voxels with a background 6-neighbour. Returns how many."""
    cdef Py_ssize_t x, y, w, words = bits.shape[2], count = 0
    cdef const uint64_t *row
    cdef uint64_t found
    with nogil:
        for x in range(1, bits.shape[0] - 1):
            for y in range(1, bits.shape[1] - 1):
                row = &bits[x, y, 0]
                for w in range(words):
                    found = row[w] & ~(
                        after(row, w, words) & before(row, w)
                        & bits[x - 1, y, w] & bits[x + 1, y, w] & bits[x, y - 1, w] & bits[x, y + 1, w]
                    )
                    surface[x, y, w] = found
                    count += bit_count(found)
    return count


cdef inline uint8_t two(const uint64_t *row, Py_ssize_t z) noexcept nogil:
    """Voxels z (bit 0) and z + 1 (bit 1) of the row; there is always a next one, the padding."""
    return ((row[z >> 6] >> (z & 63)) & 1) | (((row[(z + 1) >> 6] >> ((z + 1) & 63)) & 1) << 1)


def list_elements(
    const uint64_t[:, :, ::1] bits, const uint64_t[:, :, ::1] surface, int32_t[:, ::1] places, uint8_t[::1] codes
):
    """Places (n, 3) of the surface's bits in C order; with codes (n,), also the 2 × 2 × 2 pattern, bit 4x + 2y + z."""
    cdef Py_ssize_t x, y, z, w, i = 0
    cdef bint coded = codes.shape[0] > 0
    cdef uint64_t word
    with nogil:
        for x in range(surface.shape[0]):
            for y in range(surface.shape[1]):
                for w in range(surface.shape[2]):
                    word = surface[x, y, w]
                    while word != 0:
                        z = 64 * w + lowest_bit(word)
                        word &= word - 1
                        places[i, 0], places[i, 1], places[i, 2] = <int32_t>x, <int32_t>y, <int32_t>z
                        if coded:
                            codes[i] = (
                                two(&bits[x, y, 0], z) | (two(&bits[x, y + 1, 0], z) << 2)
                                | (two(&bits[x + 1, y, 0], z) << 4) | (two(&bits[x + 1, y + 1, 0], z) << 6)
                            )
                        i += 1


def coarsen(const uint64_t[:, :, ::1] surface, uint64_t[:, :, ::1] blocks):
    """One bit per 8 × 8 × 8 block that holds an element; blocks are zeros before."""
    cdef Py_ssize_t x, y, w, k, z
    cdef uint64_t word
    with nogil:
        for x in range(surface.shape[0]):
            for y in range(surface.shape[1]):
                for w in range(surface.shape[2]):
                    word = surface[x, y, w]
                    for k in range(8):
                        if (word >> (8 * k)) & 0xFF:
                            z = 8 * w + k
                            blocks[x >> 3, y >> 3, z >> 6] |= (<uint64_t>1) << (z & 63)


cdef struct Search:
    const uint64_t *surface
    const uint64_t *blocks
    Py_ssize_t X, Y, words, BX, BY, block_words
    double sx, sy, sz
    Py_ssize_t x, y, z  # the element asked about
    double best  # squared distance of the nearest found so far, mm²
    Py_ssize_t near_x, near_y, near_z


cdef inline double squared(const Search *s, Py_ssize_t x, Py_ssize_t y, Py_ssize_t z) noexcept nogil:
    cdef double dx = s.sx * (s.x - x), dy = s.sy * (s.y - y), dz = s.sz * (s.z - z)
    return dx * dx + dy * dy + dz * dz


cdef inline void offer(Search *s, Py_ssize_t x, Py_ssize_t y, Py_ssize_t z) noexcept nogil:
    cdef double d = squared(s, x, y, z)
    if d < s.best:
        s.best = d
        s.near_x, s.near_y, s.near_z = x, y, z


cdef inline void search_row(Search *s, Py_ssize_t x, Py_ssize_t y) noexcept nogil:
    """Offer the row's nearest elements above and below."""
    cdef const uint64_t *row = s.surface + (x * s.Y + y) * s.words
    cdef Py_ssize_t home = s.z >> 6, w
    cdef uint64_t word = row[home] >> (s.z & 63)
    if word != 0:
        offer(s, x, y, s.z + lowest_bit(word))
    else:
        for w in range(home + 1, s.words):
            if row[w] != 0:
                offer(s, x, y, 64 * w + lowest_bit(row[w]))
                break
    word = row[home] << (63 - (s.z & 63))
    if word != 0:
        offer(s, x, y, s.z - 63 + highest_bit(word))
    else:
        for w in range(home - 1, -1, -1):
            if row[w] != 0:
                offer(s, x, y, 64 * w + highest_bit(row[w]))
                break


cdef inline double gap(Py_ssize_t at, Py_ssize_t block, double spacing) noexcept nogil:
    """Squared distance from a place to a block of 8 along one axis."""
    cdef Py_ssize_t first = 8 * block
    cdef double d = 0
    if at < first:
        d = spacing * (first - at)
    elif at > first + 7:
        d = spacing * (at - first - 7)
    return d * d


cdef void search_block(Search *s, Py_ssize_t bx, Py_ssize_t by, Py_ssize_t bz) noexcept nogil:
    """Offer the block's elements, row by row, where they can be nearer."""
    cdef Py_ssize_t x, y
    cdef double dx, dy, along = gap(s.z, bz, s.sz)
    cdef uint64_t row
    for x in range(8 * bx, min(8 * bx + 8, s.X)):
        dx = s.sx * (s.x - x)
        if dx * dx + along >= s.best:
            continue
        for y in range(8 * by, min(8 * by + 8, s.Y)):
            dy = s.sy * (s.y - y)
            if dx * dx + dy * dy + along >= s.best:
                continue
            row = (s.surface[(x * s.Y + y) * s.words + (bz >> 3)] >> (8 * (bz & 7))) & 0xFF
            while row != 0:
                offer(s, x, y, 8 * bz + lowest_bit(row))
                row &= row - 1


cdef inline void search_column(Search *s, Py_ssize_t bx, Py_ssize_t by, double aside) noexcept nogil:
    """Search the occupied blocks that are near enough in a column (aside: its squared distance across)."""
    cdef const uint64_t *blocks = s.blocks + (bx * s.BY + by) * s.block_words
    cdef Py_ssize_t w, bz
    cdef uint64_t word
    for w in range(s.block_words):
        word = blocks[w]
        while word != 0:
            bz = 64 * w + lowest_bit(word)
            if aside + gap(s.z, bz, s.sz) < s.best:
                search_block(s, bx, by, bz)
            word &= word - 1


cdef void search_blocks(Search *s) noexcept nogil:
    """Columns of blocks outwards from the element, in x and within that in y, while they can hold something nearer."""
    cdef Py_ssize_t i, j, bx, by, hx = s.x >> 3, hy = s.y >> 3
    cdef double across, aside
    for i in range(2 * s.BX):
        bx = hx + ((i + 1) >> 1) * (1 if i & 1 else -1)
        if bx < 0 or bx >= s.BX:
            continue
        across = gap(s.x, bx, s.sx)
        if across >= s.best:
            if i & 1 == 0 and gap(s.x, hx + ((i + 1) >> 1), s.sx) >= s.best:
                return  # too far on both sides
            continue
        for j in range(2 * s.BY):
            by = hy + ((j + 1) >> 1) * (1 if j & 1 else -1)
            if by < 0 or by >= s.BY:
                continue
            aside = across + gap(s.y, by, s.sy)
            if aside < s.best:
                search_column(s, bx, by, aside)


def nearest(
    const int32_t[:, ::1] places,
    const uint64_t[:, :, ::1] surface,
    const uint64_t[:, :, ::1] blocks,
    const double[::1] spacing,
    const int32_t[:, ::1] offsets,
    const double[::1] reach,
    const int32_t[::1] anchor,
    double[::1] distances,
    Py_ssize_t start,
    Py_ssize_t stop,
):
    """Distances (n,) in mm from places start…stop to the nearest bit of surface, which holds at least one.

    offsets (m, 2): all steps in x and y by growing squared distance reach (m,) in mm², complete up to the last.
    anchor: the place of any one element of the surface.
    """
    cdef Search s
    cdef Py_ssize_t i, k, x, y, steps = offsets.shape[0]
    cdef double horizon = reach[steps - 1], floor = 0
    s.surface, s.blocks = &surface[0, 0, 0], &blocks[0, 0, 0]
    s.X, s.Y, s.words = surface.shape[0], surface.shape[1], surface.shape[2]
    s.BX, s.BY, s.block_words = blocks.shape[0], blocks.shape[1], blocks.shape[2]
    s.sx, s.sy, s.sz = spacing[0], spacing[1], spacing[2]
    s.near_x, s.near_y, s.near_z = anchor[0], anchor[1], anchor[2]
    with nogil:
        for i in range(start, stop):
            if i > start:  # the distance cannot have shrunk by more than the step from the last element to this
                floor = sqrt(s.best) - sqrt(squared(&s, places[i, 0], places[i, 1], places[i, 2]))
            s.x, s.y, s.z = places[i, 0], places[i, 1], places[i, 2]
            s.best = squared(&s, s.near_x, s.near_y, s.near_z)  # the last one's nearest is often near this one too
            for k in range(steps if floor <= 0 or floor * floor <= horizon else 0):
                if reach[k] >= s.best:
                    break
                x, y = s.x + offsets[k, 0], s.y + offsets[k, 1]
                if 0 <= x < s.X and 0 <= y < s.Y:
                    search_row(&s, x, y)
            if s.best > horizon:
                search_blocks(&s)
            distances[i] = sqrt(s.best)
