/** Places worth a look: lesions, changes and doubts, the largest first. All voxels are in the stored order. */

export interface Place {
  /** Voxel indices in the stored order. */
  voxel: [number, number, number]
  /** Number of voxels of a component; the mean of a doubt. */
  size: number
}

type Shape = readonly [number, number, number]

/** Components (26-connected) of the voxels that are not 0, the largest first, each with a voxel to look at. */
export function components(map: Uint8Array, shape: Shape): Place[] {
  const [nx, ny, nz] = shape
  const seen = new Uint8Array(map.length)
  const found: Place[] = []
  for (let start = 0; start < map.length; start++) {
    if (map[start] === 0 || seen[start]) continue
    const members = [start]
    seen[start] = 1
    for (let at = 0; at < members.length; at++) {
      const index = members[at]
      const x = index % nx
      const y = Math.floor(index / nx) % ny
      const z = Math.floor(index / (nx * ny))
      for (let k = Math.max(z - 1, 0); k <= Math.min(z + 1, nz - 1); k++) {
        for (let j = Math.max(y - 1, 0); j <= Math.min(y + 1, ny - 1); j++) {
          for (let i = Math.max(x - 1, 0); i <= Math.min(x + 1, nx - 1); i++) {
            const next = i + nx * (j + ny * k)
            if (map[next] !== 0 && !seen[next]) {
              seen[next] = 1
              members.push(next)
            }
          }
        }
      }
    }
    found.push({ voxel: middle(members, shape), size: members.length })
  }
  return found.sort((a, b) => b.size - a.size)
}

/** The member nearest to where, axis by axis, the slice with most members is. */
function middle(members: number[], [nx, ny, nz]: Shape): [number, number, number] {
  const counts = [new Uint32Array(nx), new Uint32Array(ny), new Uint32Array(nz)]
  const place = (index: number): [number, number, number] => [
    index % nx,
    Math.floor(index / nx) % ny,
    Math.floor(index / (nx * ny))
  ]
  for (const index of members) place(index).forEach((value, axis) => counts[axis][value]++)
  const most = counts.map((count) => count.indexOf(Math.max(...count)))
  let best = place(members[0])
  let distance = Infinity
  for (const index of members) {
    const here = place(index)
    const d = here.reduce((sum, value, axis) => sum + (value - most[axis]) ** 2, 0)
    if (d < distance) {
      distance = d
      best = here
    }
  }
  return best
}

/**
 * The voxel with the highest mean doubt in a box of 5 × 5 × 5 around it, then those more than 10 voxels from the
 * earlier ones; at most `count`, none below a mean of 0.05.
 */
export function doubts(doubt: Float32Array, shape: Shape, count = 5): Place[] {
  const mean = boxMean(doubt, shape, 2)
  const [nx, ny] = shape
  const place = (i: number): [number, number, number] => [i % nx, Math.floor(i / nx) % ny, Math.floor(i / (nx * ny))]
  let candidates: number[] = []
  for (let i = 0; i < mean.length; i++) if (mean[i] > 0.05) candidates.push(i)
  const found: Place[] = []
  while (found.length < count && candidates.length) {
    const best = candidates.reduce((one, other) => (mean[other] > mean[one] ? other : one))
    const voxel = place(best)
    found.push({ voxel, size: mean[best] })
    candidates = candidates.filter((i) => place(i).some((value, axis) => Math.abs(value - voxel[axis]) > 10))
  }
  return found
}

/** Mean over a box of 2 r + 1 voxels an axis, outside counting as 0: three running sums. */
function boxMean(values: Float32Array, shape: Shape, r: number): Float32Array {
  const width = 2 * r + 1
  let stride = 1
  let current = values
  for (const n of shape) {
    const next = new Float32Array(current.length)
    for (let line = 0; line < current.length / n; line++) {
      const start = Math.floor(line / stride) * stride * n + (line % stride)
      let sum = 0
      for (let i = -r; i < n; i++) {
        if (i + r < n) sum += current[start + (i + r) * stride]
        if (i - r - 1 >= 0) sum -= current[start + (i - r - 1) * stride]
        if (i >= 0) next[start + i * stride] = sum / width
      }
    }
    stride *= n
    current = next
  }
  return current
}
