/** Beside the page, so that it answers while files are unpacked and looked through: voxels, grey levels, labels, places. */

import * as nifti from 'nifti-reader-js'
import { message } from './dom'
import { asLabels, changesBetween } from './maps'
import { components, doubts, type Place } from './places'

type Shape = readonly [number, number, number]
export type Labels = Uint8Array<ArrayBuffer>

export interface Jobs {
  /** A file as it came: unpacked, and what the page needs to know of it. */
  read: {
    asks: { file: ArrayBuffer; as: 'image' | 'labels' | 'lesions' | 'doubt'; enhancing?: number }
    gives: { file: ArrayBuffer; range: [number, number]; labels?: Labels; places?: Place[] }
  }
  /** What became different between two label maps. */
  compare: { asks: { before: Labels; after: Labels; shape: Shape }; gives: { labels: Labels; places: Place[] } }
}

const ARRAYS = {
  2: Uint8Array, 4: Int16Array, 8: Int32Array, 16: Float32Array, 64: Float64Array, 256: Int8Array, 512: Uint16Array, 768: Uint32Array
} as const

async function unpacked(file: ArrayBuffer): Promise<ArrayBuffer> {
  if (!nifti.isCompressed(file)) return file
  return await new Response(new Blob([file]).stream().pipeThrough(new DecompressionStream('gzip'))).arrayBuffer()
}

/** The voxels as they are stored, in the order of bytes of this machine. */
function voxelsOf(header: nifti.NIFTI1 | nifti.NIFTI2, file: ArrayBuffer): ArrayLike<number> {
  const kind = ARRAYS[header.datatypeCode as keyof typeof ARRAYS]
  if (!kind) throw new Error(`Images of type ${header.getDatatypeCodeString(header.datatypeCode)} are not shown`)
  const size = kind.BYTES_PER_ELEMENT
  const bytes = header.dims[1] * header.dims[2] * header.dims[3] * size
  const voxels = file.slice(header.vox_offset, header.vox_offset + bytes)
  if (voxels.byteLength < bytes) throw new Error('The file is shorter than its header says')
  if (!header.littleEndian) {
    const turned = new Uint8Array(voxels)
    for (let start = 0; start < bytes; start += size) turned.subarray(start, start + size).reverse()
  }
  return new kind(voxels)
}

/** Grey levels from black to white: percentiles 2 and 98 of the voxels that are not 0. */
function greyLevels(voxels: ArrayLike<number>): [number, number] {
  let low = Infinity
  let high = -Infinity
  for (let i = 0; i < voxels.length; i++) {
    const value = voxels[i]
    if (value === 0 || Number.isNaN(value)) continue
    if (value < low) low = value
    if (value > high) high = value
  }
  if (!(high > low)) return [Math.min(low, 0), Math.max(high, 1)]
  const bins = new Uint32Array(1024)
  const scale = (bins.length - 1) / (high - low)
  let count = 0
  for (let i = 0; i < voxels.length; i++) {
    const value = voxels[i]
    if (value === 0 || Number.isNaN(value)) continue
    bins[Math.round((value - low) * scale)]++
    count++
  }
  const at = (share: number) => {
    let seen = 0
    return low + bins.findIndex((n) => (seen += n) >= share * count) / scale
  }
  const range: [number, number] = [at(0.02), at(0.98)]
  return range[1] > range[0] ? range : [low, high]
}

async function read({ file, as, enhancing }: Jobs['read']['asks']): Promise<Jobs['read']['gives']> {
  const plain = await unpacked(file)
  const header = nifti.readHeader(plain)
  if (!header) throw new Error('The file is not NIfTI')
  const voxels = voxelsOf(header, plain)
  const shape: Shape = [header.dims[1], header.dims[2], header.dims[3]]
  const slope = header.scl_slope || 1
  const inter = header.scl_inter || 0
  if (as === 'labels' || as === 'lesions') {
    const labels = asLabels(voxels, slope, inter, enhancing)
    return { file: plain, range: [0, 1], labels, places: as === 'lesions' ? components(labels, shape) : undefined }
  }
  if (as === 'doubt') {
    const doubt = new Float32Array(voxels.length)
    for (let i = 0; i < doubt.length; i++) doubt[i] = voxels[i] * slope + inter
    return { file: plain, range: [0, 1], places: doubts(doubt, shape) }
  }
  const [low, high] = greyLevels(voxels).map((value) => value * slope + inter)
  return { file: plain, range: [Math.min(low, high), Math.max(low, high)] }
}

function compare({ before, after, shape }: Jobs['compare']['asks']): Jobs['compare']['gives'] {
  const labels = changesBetween(before, after)
  return { labels, places: components(labels, shape) }
}

self.onmessage = async ({ data: { id, job, asks } }) => {
  try {
    const gives = job === 'read' ? await read(asks) : compare(asks)
    const moved = [(gives as Jobs['read']['gives']).file, gives.labels?.buffer].filter((buffer) => buffer !== undefined)
    self.postMessage({ id, gives }, { transfer: moved })
  } catch (error) {
    self.postMessage({ id, problem: message(error) })
  }
}
