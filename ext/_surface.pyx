# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Surface elements and exact nearest-surface distances on bit-packed rows.

A mask is cropped and packed to one bit per voxel along its last axis, with an empty margin around. Surfaces are then
found 64 voxels at a time, and the nearest element of the other surface is searched outwards from each element, rows
first, then cubes of 8 and in them of 4. The work grows with the surfaces, not with the volume.
"""

from libc.math cimport sqrt
from libc.stdint cimport int32_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

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


cdef enum:
    WINDOW = 31  # voxels to either side in which a row is searched at once
    NOTHING = 40  # stands for the distance along a row that holds no element there
    FIRST = 33  # bit of the first voxel of the box: one empty voxel and a window before it


cdef inline uint64_t eight(const uint8_t *row, Py_ssize_t n) noexcept nogil:
    """The next n ≤ 8 voxels as the bytes of a word, the first one lowest."""
    cdef uint64_t word = 0
    if n >= 8:
        memcpy(&word, row, 8)
    else:
        memcpy(&word, row, n)
    return word


cdef inline bint is_empty(const uint8_t *voxels, Py_ssize_t n) noexcept nogil:
    """Whether n voxels are 0: the first is, and each is as the one before, which no loop of ours reads as fast."""
    return n < 1 or (voxels[0] == 0 and memcmp(voxels, voxels + 1, n - 1) == 0)


def outline(const uint8_t[:, :, ::1] mask, const uint8_t[::1] filled, Py_ssize_t[:, ::1] box, uint8_t[::1] columns):
    """First and past-the-last index of the foreground along each axis → box (3, 2), zeros where there is none.

    filled (X,): not 0 for the planes that hold some. columns (Z,) are zeros before, and then hold what the rows hold.
    """
    cdef Py_ssize_t X = mask.shape[0], Y = mask.shape[1], Z = mask.shape[2], x, y, z
    cdef Py_ssize_t first = -1, last = 0, low = Y, high = 0
    cdef const uint8_t *row
    cdef uint8_t *out = &columns[0]
    with nogil:
        for x in range(X):
            if not filled[x]:
                continue
            row = &mask[x, 0, 0]
            first, last = x if first < 0 else first, x + 1
            y = 0
            if not is_empty(row, Z * low):
                while is_empty(row + y * Z, Z):
                    y += 1
                low = y
            y = Y
            if not is_empty(row + high * Z, Z * (Y - high)):
                while is_empty(row + (y - 1) * Z, Z):
                    y -= 1
                high = y
            for y in range(low, high):
                row = &mask[x, y, 0]
                for z in range(Z):
                    out[z] |= row[z]
        if first >= 0:
            box[0, 0], box[0, 1], box[1, 0], box[1, 1] = first, last, low, high
            z = 0
            while out[z] == 0:
                z += 1
            box[2, 0] = z
            z = Z
            while out[z - 1] == 0:
                z -= 1
            box[2, 1] = z


def pack(
    const uint8_t[:, :, ::1] mask,
    const Py_ssize_t[:, ::1] box,
    const uint8_t[::1] filled,
    const Py_ssize_t[::1] origin,
    uint64_t[:, :, ::1] bits,
):
    """Foreground of mask within its box → bits, zeros before: voxel (x, y, z) at bit FIRST + z in row (x, y) of origin.

    filled: as `outline` has it. bits has (FIRST + z) // 64 + 2 or more words, z the last voxel's.
    """
    cdef Py_ssize_t x, y, z, place, Z = box[2, 1] - box[2, 0], start = FIRST + box[2, 0] - origin[2]
    cdef const uint8_t *row
    cdef uint64_t *out
    cdef uint64_t word
    with nogil:
        for x in range(box[0, 0], box[0, 1]):
            if not filled[x]:
                continue
            for y in range(box[1, 0], box[1, 1]):
                row = &mask[x, y, box[2, 0]]
                out = &bits[x - origin[0], y - origin[1], 0]
                z = 0
                while z < Z:
                    word = eight(row + z, Z - z)
                    if word != 0:
                        # bytes that are not 0 → 1, then bit i of the top byte is byte i
                        word = ((((word & 0x7F7F7F7F7F7F7F7FULL) + 0x7F7F7F7F7F7F7F7FULL) | word) >> 7)
                        word = ((word & 0x0101010101010101ULL) * 0x0102040810204080ULL) >> 56
                        place = (z + start) & 63
                        out[(z + start) >> 6] |= word << place
                        if place > 56 and word >> (64 - place) != 0:
                            out[((z + start) >> 6) + 1] |= word >> (64 - place)
                    z += 8


cdef inline uint64_t after(const uint64_t *row, Py_ssize_t w, Py_ssize_t words) noexcept nogil:
    """Word w of the row, every voxel replaced by the next one."""
    return (row[w] >> 1) | (row[w + 1] << 63 if w + 1 < words else 0)


cdef inline uint64_t before(const uint64_t *row, Py_ssize_t w) noexcept nogil:
    """Word w of the row, every voxel replaced by the one before."""
    return (row[w] << 1) | (row[w - 1] >> 63 if w > 0 else 0)


def find_surfels(
    const uint64_t[:, :, ::1] bits, const Py_ssize_t[:, ::1] box, uint64_t[:, :, ::1] surface, int32_t[::1] counts
):
    """Positions whose 2 × 2 × 2 voxels, themselves and the next ones, are neither all in nor all out. Returns how many.

    box: of the foreground in bits, an empty row or more around it. surface and counts, of each plane (X,), are zeros
    before.
    """
    cdef Py_ssize_t x, y, w, words = bits.shape[2], count = 0
    cdef const uint64_t *a
    cdef const uint64_t *b
    cdef const uint64_t *c
    cdef const uint64_t *d
    cdef uint64_t a1, b1, c1, d1, found
    with nogil:
        for x in range(box[0, 0] - 1, box[0, 1]):
            for y in range(box[1, 0] - 1, box[1, 1]):
                a, b, c, d = &bits[x, y, 0], &bits[x, y + 1, 0], &bits[x + 1, y, 0], &bits[x + 1, y + 1, 0]
                for w in range(words):
                    a1, b1, c1, d1 = after(a, w, words), after(b, w, words), after(c, w, words), after(d, w, words)
                    found = a[w] | b[w] | c[w] | d[w] | a1 | b1 | c1 | d1
                    if found != 0:
                        found &= ~(a[w] & b[w] & c[w] & d[w] & a1 & b1 & c1 & d1)
                        surface[x, y, w] = found
                        counts[x] += bit_count(found)
            count += counts[x]
    return count


def find_border_voxels(
    const uint64_t[:, :, ::1] bits, const Py_ssize_t[:, ::1] box, uint64_t[:, :, ::1] surface, int32_t[::1] counts
):
    """Foreground voxels with a background 6-neighbour. Returns how many. Arguments as those of `find_surfels`."""
    cdef Py_ssize_t x, y, w, words = bits.shape[2], count = 0
    cdef const uint64_t *row
    cdef uint64_t found
    with nogil:
        for x in range(box[0, 0], box[0, 1]):
            for y in range(box[1, 0], box[1, 1]):
                row = &bits[x, y, 0]
                for w in range(words):
                    if row[w] != 0:
                        found = row[w] & ~(
                            after(row, w, words) & before(row, w)
                            & bits[x - 1, y, w] & bits[x + 1, y, w] & bits[x, y - 1, w] & bits[x, y + 1, w]
                        )
                        surface[x, y, w] = found
                        counts[x] += bit_count(found)
            count += counts[x]
    return count


cdef inline uint8_t two(const uint64_t *row, Py_ssize_t z) noexcept nogil:
    """Voxels z (bit 0) and z + 1 (bit 1) of the row; there is always a next one, the padding."""
    return ((row[z >> 6] >> (z & 63)) & 1) | (((row[(z + 1) >> 6] >> ((z + 1) & 63)) & 1) << 1)


def list_elements(
    const uint64_t[:, :, ::1] bits,
    const Py_ssize_t[:, ::1] box,
    const uint64_t[:, :, ::1] surface,
    const int32_t[::1] counts,
    int32_t[:, ::1] places,
    uint8_t[::1] codes,
):
    """Places (n, 3) of the surface's bits in C order; with codes (n,), also the 2 × 2 × 2 pattern, bit 4x + 2y + z.

    box and counts: as `find_surfels` has them.
    """
    cdef Py_ssize_t x, y, z, w, i = 0
    cdef bint coded = codes.shape[0] > 0
    cdef uint64_t word
    with nogil:
        for x in range(surface.shape[0]):
            if counts[x] == 0:
                continue
            for y in range(box[1, 0] - 1, box[1, 1]):
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


def coarsen(
    const int32_t[:, ::1] places,
    uint64_t[:, :, ::1] cells,
    uint64_t[:, :, ::1] blocks,
    int32_t[::1] columns,
    int32_t[::1] first,
):
    """Set the bits of the cubes of 4 and of 8 that hold one of the places; cells and blocks are zeros before.

    columns, first (X blocks + 1,): see Search; columns have room for all.
    """
    cdef Py_ssize_t i, x, y, w, z, count = 0
    cdef uint64_t found
    with nogil:
        for i in range(places.shape[0]):
            x, y, z = places[i, 0] >> 2, places[i, 1] >> 2, places[i, 2] >> 2
            cells[x, y, z >> 6] |= (<uint64_t>1) << (z & 63)
            x, y, z = x >> 1, y >> 1, z >> 1
            blocks[x, y, z >> 6] |= (<uint64_t>1) << (z & 63)
        for x in range(blocks.shape[0]):
            first[x] = <int32_t>count
            for y in range(blocks.shape[1]):
                found = 0
                for w in range(blocks.shape[2]):
                    found |= blocks[x, y, w]
                if found != 0:
                    columns[count] = <int32_t>y
                    count += 1
        first[blocks.shape[0]] = <int32_t>count


cdef struct Search:
    const uint64_t *surface
    const uint64_t *cells  # one bit per 4 × 4 × 4
    const uint64_t *blocks  # one bit per 8 × 8 × 8
    const int32_t *columns  # y of the columns of blocks that are not empty, by x
    const int32_t *first  # the first of them for each x, and their number
    Py_ssize_t X, Y, words, CX, CY, cell_words, BX, BY, block_words
    double sx, sy, sz
    double steps[NOTHING + 1]  # squared distance of that many voxels along a row
    Py_ssize_t x, y, z  # the element asked about
    double best  # squared distance of the nearest found so far, mm²
    double enough  # squared distance up to which any element will do, mm²
    Py_ssize_t near_x, near_y, near_z


cdef inline double squared(const Search *s, Py_ssize_t x, Py_ssize_t y, Py_ssize_t z) noexcept nogil:
    cdef double dx = s.sx * (s.x - x), dy = s.sy * (s.y - y), dz = s.sz * (s.z - z)
    return dx * dx + dy * dy + dz * dz


cdef inline void offer(Search *s, Py_ssize_t x, Py_ssize_t y, Py_ssize_t z, double distance) noexcept nogil:
    if distance < s.best:
        s.best = distance
        s.near_x, s.near_y, s.near_z = x, y, z


cdef inline double gap(Py_ssize_t at, Py_ssize_t cube, int side, double spacing) noexcept nogil:
    """Squared distance along one axis from a place to a cube, given by its number along the axis and its side."""
    cdef Py_ssize_t first = side * cube
    cdef double d = 0
    if at < first:
        d = spacing * (first - at)
    elif at > first + side - 1:
        d = spacing * (at - first - side + 1)
    return d * d


cdef inline void search_cell(Search *s, Py_ssize_t cx, Py_ssize_t cy, Py_ssize_t cz, double along) noexcept nogil:
    """Offer a cell's elements that can be nearest; along: its squared distance in z, above 0 if it is all to one side."""
    cdef Py_ssize_t x, y, z
    cdef double dx, dy, dz, aside
    cdef uint64_t row
    cdef bint above = 4 * cz > s.z
    for x in range(4 * cx, min(4 * cx + 4, s.X)):
        dx = s.sx * (s.x - x)
        for y in range(4 * cy, min(4 * cy + 4, s.Y)):
            dy = s.sy * (s.y - y)
            aside = dx * dx + dy * dy
            row = (s.surface[(x * s.Y + y) * s.words + (cz >> 4)] >> (4 * (cz & 15))) & 0xF
            if along > 0:  # the row's element on the side of the place, or a stand-in one step further
                z = 4 * cz + (lowest_bit(row | 0x10) if above else highest_bit(2 * row | 1) - 1)
                dz = s.sz * (s.z - z)
                if aside + dz * dz < s.best and row != 0:
                    offer(s, x, y, z, aside + dz * dz)
            else:
                while row != 0:
                    z = 4 * cz + lowest_bit(row)
                    dz = s.sz * (s.z - z)
                    offer(s, x, y, z, aside + dz * dz)
                    row &= row - 1


cdef inline void search_block(Search *s, Py_ssize_t bx, Py_ssize_t by, Py_ssize_t bz) noexcept nogil:
    """Search the occupied cells of a block that are near enough."""
    cdef Py_ssize_t cx, cy, cz
    cdef double aside, along
    cdef uint64_t word
    for cx in range(2 * bx, min(2 * bx + 2, s.CX)):
        for cy in range(2 * by, min(2 * by + 2, s.CY)):
            word = (s.cells[(cx * s.CY + cy) * s.cell_words + (bz >> 5)] >> (2 * (bz & 31))) & 3
            aside = gap(s.x, cx, 4, s.sx) + gap(s.y, cy, 4, s.sy)
            while word != 0:
                cz = 2 * bz + lowest_bit(word)
                along = gap(s.z, cz, 4, s.sz)
                if aside + along < s.best:
                    search_cell(s, cx, cy, cz, along)
                word &= word - 1


cdef inline void search_column(Search *s, Py_ssize_t bx, Py_ssize_t by, double aside) noexcept nogil:
    """Search the occupied blocks of a column that are near enough; aside: its squared distance across."""
    cdef const uint64_t *blocks = s.blocks + (bx * s.BY + by) * s.block_words
    cdef Py_ssize_t w, bz
    cdef uint64_t word
    for w in range(s.block_words):
        word = blocks[w]
        while word != 0:
            bz = 64 * w + lowest_bit(word)
            if aside + gap(s.z, bz, 8, s.sz) < s.best:
                search_block(s, bx, by, bz)
            word &= word - 1


cdef void search_blocks(Search *s) noexcept nogil:
    """Search the columns of blocks that can hold something nearer, outwards in x."""
    cdef Py_ssize_t i, k, bx, by, home = s.x >> 3
    cdef double across, aside
    for i in range(2 * s.BX):
        if s.best <= s.enough:
            return
        bx = home + ((i + 1) >> 1) * (1 if i & 1 else -1)
        if bx < 0 or bx >= s.BX:
            continue
        across = gap(s.x, bx, 8, s.sx)
        if across >= s.best:
            continue
        for k in range(s.first[bx], s.first[bx + 1]):
            by = s.columns[k]
            aside = across + gap(s.y, by, 8, s.sy)
            if aside < s.best:
                search_column(s, bx, by, aside)


cdef inline void search_rows(
    Search *s, const int32_t *offsets, const Py_ssize_t *jumps, const double *reach, Py_ssize_t count
) noexcept nogil:
    """Offer the nearest element within WINDOW of each row around, by growing distance across.

    Almost without branches inside, for which rows hold something is hard to predict.
    """
    cdef Py_ssize_t first = s.z - WINDOW - 1, k
    cdef const uint64_t *home = s.surface + (s.x * s.Y + s.y) * s.words + (first >> 6)
    cdef int shift = first & 63, up, down, step
    cdef uint64_t bits
    cdef double best = s.best
    for k in range(count):
        if reach[k] >= best:
            break
        bits = (home[jumps[k]] >> shift) | ((home[jumps[k] + 1] << 1) << (63 - shift))  # the place itself at bit 32
        up = lowest_bit((bits >> 32) | (<uint64_t>1 << NOTHING))
        down = 63 - highest_bit((bits << 31) | (<uint64_t>1 << (63 - NOTHING)))
        step = up if up < down else down
        if reach[k] + s.steps[step] < best and step < NOTHING:
            best = reach[k] + s.steps[step]
            s.near_x, s.near_y = s.x + offsets[2 * k], s.y + offsets[2 * k + 1]
            s.near_z = s.z + up if up < down else s.z - down
            if best <= s.enough:
                break
    s.best = best


def nearest(
    const uint64_t[:, :, ::1] surface,
    const uint64_t[:, :, ::1] cells,
    const uint64_t[:, :, ::1] blocks,
    const int32_t[::1] columns,
    const int32_t[::1] first,
    const double[::1] spacing,
    const int32_t[:, ::1] offsets,
    const Py_ssize_t[::1] jumps,
    const double[::1] reach,
    int32_t[:, :, ::1] anchors,
    const int32_t[:, ::1] places,
    double[::1] distances,
    double enough,
    Py_ssize_t start,
    Py_ssize_t stop,
):
    """Distances (n,) in mm from places start…stop to the nearest bit of surface, which holds at least one.

    enough: where a place is at most this many mm away, the distance to any bit at most this far away will do.

    cells and blocks: the surface coarsened to cubes of 4 and 8; columns, first: see Search.
    offsets (m, 2): all steps in x and y by growing squared distance reach (m,) in mm², complete up to the last, none
    longer than the margin around the elements; jumps (m,): the same in words of surface.
    anchors (Y blocks, Z blocks, 3): places of elements of the surface, any at first; kept up to date with the element
    last found from each 8 × 8 rows, as good guesses for the places there in the next plane.
    """
    cdef Search s
    cdef Py_ssize_t i, steps = offsets.shape[0]
    cdef double horizon = min(reach[steps - 1], (WINDOW * spacing[2]) ** 2), floor = 0
    cdef bint exact = False
    s.surface, s.cells, s.blocks = &surface[0, 0, 0], &cells[0, 0, 0], &blocks[0, 0, 0]
    s.columns, s.first = &columns[0], &first[0]
    s.X, s.Y, s.words = surface.shape[0], surface.shape[1], surface.shape[2]
    s.CX, s.CY, s.cell_words = cells.shape[0], cells.shape[1], cells.shape[2]
    s.BX, s.BY, s.block_words = blocks.shape[0], blocks.shape[1], blocks.shape[2]
    s.sx, s.sy, s.sz = spacing[0], spacing[1], spacing[2]
    s.enough = enough * enough
    for i in range(NOTHING + 1):
        s.steps[i] = (s.sz * i) * (s.sz * i)
    cdef int32_t *anchor
    s.near_x, s.near_y, s.near_z = anchors[0, 0, 0], anchors[0, 0, 1], anchors[0, 0, 2]
    with nogil:
        for i in range(start, stop):
            floor = 0
            if exact and s.best > horizon:  # it cannot have shrunk by more than the step from the last element to this
                floor = sqrt(s.best) - sqrt(squared(&s, places[i, 0], places[i, 1], places[i, 2]))
            s.x, s.y, s.z = places[i, 0], places[i, 1], places[i, 2]
            s.best = squared(&s, s.near_x, s.near_y, s.near_z)  # the last one's nearest is often near this one too
            anchor = &anchors[s.y >> 3, s.z >> 3, 0]
            offer(&s, anchor[0], anchor[1], anchor[2], squared(&s, anchor[0], anchor[1], anchor[2]))
            if s.best > s.enough and (floor <= 0 or floor * floor <= horizon):
                search_rows(&s, &offsets[0, 0], &jumps[0], &reach[0], steps)
            if s.best > horizon:
                search_blocks(&s)
            exact = s.best > s.enough
            anchor[0], anchor[1], anchor[2] = <int32_t>s.near_x, <int32_t>s.near_y, <int32_t>s.near_z
            distances[i] = sqrt(s.best)
