# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Connected components by union-find over runs: the foreground stretches of each row."""

import numpy as np

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcpy, memset

cdef struct Run:
    int32_t start  # along the row
    int32_t stop
    int32_t parent  # index of a run of the same component, never above the run's own

cdef struct Runs:
    Run *items
    Py_ssize_t count
    Py_ssize_t room


cdef inline int32_t root(Run *runs, int32_t i) noexcept nogil:
    while runs[i].parent != i:
        runs[i].parent = runs[runs[i].parent].parent
        i = runs[i].parent
    return i


cdef inline void unite(Run *runs, int32_t a, int32_t b) noexcept nogil:
    a = root(runs, a)
    b = root(runs, b)
    if a < b:
        runs[b].parent = a
    else:
        runs[a].parent = b


cdef inline bint append(Runs *runs, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    cdef Run *bigger
    if runs.count == runs.room:
        bigger = <Run *>realloc(runs.items, 2 * runs.room * sizeof(Run))
        if bigger == NULL:
            return False
        runs.items = bigger
        runs.room *= 2
    runs.items[runs.count].start = <int32_t>start
    runs.items[runs.count].stop = <int32_t>stop
    runs.items[runs.count].parent = <int32_t>runs.count
    runs.count += 1
    return True


cdef bint find_runs(const uint8_t *row, Py_ssize_t length, Runs *runs) noexcept nogil:
    cdef Py_ssize_t z = 0, start
    cdef uint64_t eight
    cdef const uint8_t *end
    while z < length:
        if row[z] == 0:
            z += 1
            while z + 8 <= length:  # background is most of a volume: eight voxels at a time
                memcpy(&eight, row + z, 8)
                if eight != 0:
                    break
                z += 8
            continue
        start = z
        end = <const uint8_t *>memchr(row + z, 0, length - z)
        z = length if end == NULL else end - row
        if not append(runs, start, z):
            return False
    return True


cdef void join_rows(Run *runs, Py_ssize_t i, Py_ssize_t i_stop, Py_ssize_t j, Py_ssize_t j_stop, int reach) noexcept nogil:
    """Unite the runs i…i_stop of one row with those of another (j…j_stop) that lie within `reach` of them."""
    while i < i_stop and j < j_stop:
        if runs[i].start < runs[j].stop + reach and runs[j].start < runs[i].stop + reach:
            unite(runs, <int32_t>i, <int32_t>j)
        if runs[i].stop < runs[j].stop:
            i += 1
        else:
            j += 1


def label_runs(const uint8_t[:, :, ::1] mask, int connectivity, int32_t[:, :, ::1] labels, order):
    """Number the components of mask in labels (zeros before), from 1 by their first voxel; return their sizes.

    order: weights (3,) int64 of the three axes in the caller's own voxel count, by which "first" is meant.
    """
    cdef Py_ssize_t X = mask.shape[0], Y = mask.shape[1], Z = mask.shape[2], x, y, i, k, row = 0
    cdef int64_t wx = order[0], wy = order[1], wz = order[2]
    cdef int edge = connectivity > 6, corner = connectivity > 18  # reach along the row of side and diagonal rows
    cdef Runs runs
    cdef Py_ssize_t *first = <Py_ssize_t *>malloc((X * Y + 1) * sizeof(Py_ssize_t))  # first run of each row
    cdef bint ok = True
    cdef int32_t count = 0
    cdef int64_t place
    runs.count = 0
    runs.room = 1024
    runs.items = <Run *>malloc(runs.room * sizeof(Run))
    if first == NULL or runs.items == NULL:
        free(first)
        free(runs.items)
        raise MemoryError("no memory to label the components")
    try:
        with nogil:
            for x in range(X):
                for y in range(Y):
                    first[row] = runs.count
                    if Z > 0 and not find_runs(&mask[x, y, 0], Z, &runs):
                        ok = False
                        break
                    first[row + 1] = runs.count
                    if runs.count > first[row]:
                        if y > 0:
                            join_rows(runs.items, first[row], runs.count, first[row - 1], first[row], edge)
                        if x > 0:
                            join_rows(runs.items, first[row], runs.count, first[row - Y], first[row - Y + 1], edge)
                        if x > 0 and y > 0 and edge:
                            join_rows(runs.items, first[row], runs.count, first[row - Y - 1], first[row - Y], corner)
                        if x > 0 and y + 1 < Y and edge:
                            join_rows(runs.items, first[row], runs.count, first[row - Y + 1], first[row - Y + 2], corner)
                    row += 1
                if not ok:
                    break
            for i in range(runs.count if ok else 0):  # every run points at its root: parents come first
                runs.items[i].parent = root(runs.items, <int32_t>i)
                count += runs.items[i].parent == i
        if not ok:
            raise MemoryError("no memory to label the components")
        sizes = np.zeros(count, np.int64)
        if count == 0:
            return sizes
        places = np.full(runs.count, np.iinfo(np.int64).max)
        run_sizes = np.zeros(runs.count, np.int64)
        number_runs(&runs, first, X, Y, wx, wy, wz, places, run_sizes)
        roots = np.flatnonzero(run_sizes)
        roots = roots[np.argsort(places[roots])]
        numbers = np.zeros(runs.count, np.int32)
        numbers[roots] = np.arange(1, count + 1)
        write_labels(&runs, first, X, Y, numbers, labels)
        return run_sizes[roots]
    finally:
        free(first)
        free(runs.items)


cdef void number_runs(
    Runs *runs, Py_ssize_t *first, Py_ssize_t X, Py_ssize_t Y, int64_t wx, int64_t wy, int64_t wz,
    int64_t[::1] places, int64_t[::1] sizes,
) noexcept:
    """Per root: the earliest voxel and the size of its component."""
    cdef Py_ssize_t x, y, i
    cdef int32_t r
    cdef int64_t place
    with nogil:
        for x in range(X):
            for y in range(Y):
                for i in range(first[x * Y + y], first[x * Y + y + 1]):
                    r = runs.items[i].parent
                    place = x * wx + y * wy + runs.items[i].start * wz
                    places[r] = min(places[r], place)
                    sizes[r] += runs.items[i].stop - runs.items[i].start


cdef void write_labels(
    Runs *runs, Py_ssize_t *first, Py_ssize_t X, Py_ssize_t Y, const int32_t[::1] numbers, int32_t[:, :, ::1] labels
) noexcept:
    cdef Py_ssize_t x, y, z, i
    cdef int32_t number
    with nogil:
        for x in range(X):
            for y in range(Y):
                for i in range(first[x * Y + y], first[x * Y + y + 1]):
                    number = numbers[runs.items[i].parent]
                    for z in range(runs.items[i].start, runs.items[i].stop):
                        labels[x, y, z] = number


def count_labels(const int32_t[::1] labels, int64_t[::1] sizes):
    """Add the voxels of each label to sizes (count + 1,); return a label outside 0…count, or 0 when there is none."""
    cdef Py_ssize_t i
    cdef int32_t label, bad = 0
    cdef int32_t top = <int32_t>sizes.shape[0] - 1
    with nogil:
        for i in range(labels.shape[0]):
            label = labels[i]
            if label < 0 or label > top:
                bad = label
                break
            sizes[label] += 1
    return bad


def box_labels(const int32_t[:, :, ::1] labels, Py_ssize_t[:, :, ::1] boxes):
    """Widen boxes (count + 1, 3, 2) to hold each label from 1; return a label outside 0…count, or 0 if there is none."""
    return widen_boxes(labels, boxes)


cdef int32_t widen_boxes(const int32_t[:, :, ::1] labels, Py_ssize_t[:, :, ::1] boxes) noexcept:
    cdef Py_ssize_t x, y, z, start, Z = labels.shape[2]
    cdef int32_t label
    with nogil:
        for x in range(labels.shape[0]):
            for y in range(labels.shape[1]):
                z = 0
                while z < Z:
                    label = labels[x, y, z]
                    start = z
                    z += 1
                    if label == 0:
                        continue
                    if label < 0 or label >= boxes.shape[0]:
                        return label
                    while z < Z and labels[x, y, z] == label:
                        z += 1
                    boxes[label, 0, 0] = min(boxes[label, 0, 0], x)
                    boxes[label, 0, 1] = x + 1  # x only grows
                    boxes[label, 1, 0] = min(boxes[label, 1, 0], y)
                    boxes[label, 1, 1] = max(boxes[label, 1, 1], y + 1)
                    boxes[label, 2, 0] = min(boxes[label, 2, 0], start)
                    boxes[label, 2, 1] = max(boxes[label, 2, 1], z)
    return 0


cdef inline void spread(const uint8_t *row, uint8_t *out, Py_ssize_t n) noexcept nogil:
    """out |= row and its neighbours along the row."""
    cdef Py_ssize_t z
    out[0] |= row[0]
    if n > 1:
        out[0] |= row[1]
        out[n - 1] |= row[n - 1] | row[n - 2]
    for z in range(1, n - 1):
        out[z] |= row[z - 1] | row[z] | row[z + 1]


cdef inline void merge(const uint8_t *row, uint8_t *out, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t z
    for z in range(n):
        out[z] |= row[z]


def dilate_once(const uint8_t[:, :, ::1] mask, uint8_t[:, :, ::1] out):
    """Dilate a 0/1 mask by one step of the 18-neighbour element."""
    cdef Py_ssize_t X = mask.shape[0], Y = mask.shape[1], Z = mask.shape[2], x, y, i, j
    with nogil:
        for x in range(X):
            for y in range(Y):
                memset(&out[x, y, 0], 0, Z)
                for i in range(max(x - 1, 0), min(x + 2, X)):
                    for j in range(max(y - 1, 0), min(y + 2, Y)):
                        if i == x or j == y:
                            spread(&mask[i, j, 0], &out[x, y, 0], Z)
                        else:
                            merge(&mask[i, j, 0], &out[x, y, 0], Z)
