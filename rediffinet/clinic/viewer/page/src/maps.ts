/** Label maps as arrays: colours, differences, and the way between the stored and the displayed order of voxels. */

import type { NVImage } from '@niivue/niivue'
import type { Report, Rgb } from './types'

/** Colours that stay apart for colour-blind eyes (Okabe and Ito), as far as the report brings none. */
const LABEL_COLOURS: Record<string, Rgb> = { edema: [86, 180, 233], necrosis: [213, 94, 0], enhancing: [240, 228, 66] }
const OTHER_COLOURS: Rgb[] = [[0, 158, 115], [204, 121, 167], [0, 114, 178], [230, 159, 0]]

/** In colours that no task of the package gives to a label. */
export const CHANGES = [
  { value: 1, name: 'became tumour', rgb: [0, 220, 255] as Rgb },
  { value: 2, name: 'no longer tumour', rgb: [255, 70, 200] as Rgb },
  { value: 3, name: 'another label', rgb: [150, 110, 255] as Rgb }
]

export interface Label {
  name: string
  value: number
  rgb: Rgb
}

/** The labels of a report, in the order of their values; colours `#rrggbb` of its task, where it has one. */
export function labelsOf(report: Report): Label[] {
  const colours = new Map(report.task?.labels.map((label) => [label.value, fromHex(label.colour)]))
  const names = Object.entries(report.labels).sort((a, b) => a[1] - b[1])
  return names.map(([name, value], i) => ({
    name,
    value,
    rgb: colours.get(value) ?? LABEL_COLOURS[name] ?? OTHER_COLOURS[i % OTHER_COLOURS.length]
  }))
}

function fromHex(colour: string): Rgb {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16))
  return [red, green, blue]
}

/** NiiVue's table for a label map: nothing at 0, and each value its colour. */
export function labelTable(labels: { name: string; value: number; rgb: Rgb }[], alpha = 255) {
  const all = [{ name: '', value: 0, rgb: [0, 0, 0] as Rgb }, ...labels]
  return {
    R: all.map((label) => label.rgb[0]),
    G: all.map((label) => label.rgb[1]),
    B: all.map((label) => label.rgb[2]),
    A: all.map((label) => (label.value === 0 ? 0 : alpha)),
    I: all.map((label) => label.value),
    labels: all.map((label) => label.name)
  }
}

/** The bands of a margin, a bit for each region in the order of the report; from light to dark, as regions lie inside each other. */
export function bandsOf(report: Report): Label[] {
  const regions = Object.keys(report.volumes_ml.refined)
  return regions.map((name, i) => {
    const dark = i / Math.max(regions.length - 1, 1)
    return { name, value: 1 << i, rgb: [255 - 90 * dark, 190 - 170 * dark, 190 - 145 * dark].map(Math.round) as Rgb }
  })
}

/** For every sum of bits, the colour of the last band in it. */
export function bandTable(bands: Label[]) {
  const sums = Array.from({ length: (1 << bands.length) - 1 }, (_, i) => i + 1)
  return labelTable(sums.map((value) => ({ ...bands.findLast((band) => value & band.value)!, value })))
}

/** Per voxel, in the stored order: 0 the same, 1 became tumour, 2 no longer, 3 another label (values of `CHANGES`). */
export function changesBetween(before: ArrayLike<number>, after: ArrayLike<number>): Uint8Array<ArrayBuffer> {
  const changes = new Uint8Array(after.length)
  for (let i = 0; i < changes.length; i++) {
    if (before[i] !== after[i]) changes[i] = before[i] === 0 ? 1 : after[i] === 0 ? 2 : 3
  }
  return changes
}

/** Voxels, times slope plus inter, as bytes. BraTS wrote 4 for enhancing tumour until 2022: it becomes the report's value. */
export function asLabels(stored: ArrayLike<number>, slope: number, inter: number, enhancing: number | undefined): Uint8Array<ArrayBuffer> {
  const labels = new Uint8Array(stored.length)
  let has4 = false
  let has3 = false
  for (let i = 0; i < stored.length; i++) {
    const value = Math.round(stored[i] * slope + inter)
    labels[i] = value
    has4 ||= value === 4
    has3 ||= value === 3
  }
  if (has4 && !has3 && enhancing === 3) for (let i = 0; i < labels.length; i++) if (labels[i] === 4) labels[i] = 3
  return labels
}

/** Calls `visit(displayed, stored)` with the index of every voxel in both orders. */
function eachVoxel(image: NVImage, visit: (displayed: number, stored: number) => void): void {
  const [, nx, ny, nz] = image.dimsRAS!
  const start = image.img2RASstart!
  const step = image.img2RASstep!
  let displayed = 0
  for (let z = 0; z < nz; z++) {
    for (let y = 0; y < ny; y++) {
      let stored = start[0] + start[1] + start[2] + y * step[1] + z * step[2]
      for (let x = 0; x < nx; x++) {
        visit(displayed++, stored)
        stored += step[0]
      }
    }
  }
}

export function toDisplayed(image: NVImage, stored: Uint8Array): Uint8Array<ArrayBuffer> {
  const displayed = new Uint8Array(stored.length)
  eachVoxel(image, (to, from) => (displayed[to] = stored[from]))
  return displayed
}

export function toStored(image: NVImage, displayed: Uint8Array): Uint8Array<ArrayBuffer> {
  const stored = new Uint8Array(displayed.length)
  eachVoxel(image, (from, to) => (stored[to] = displayed[from]))
  return stored
}
