/** What the server tells of a case; rediffinet/clinic/viewer/scene.py makes it. */

/** Name of a contrast in the report, `t1c`. */
export type Contrast = string
const CONTRAST_NAMES: Record<Contrast, string> = { t1n: 'T1', t1c: 'T1c', t2w: 'T2', t2f: 'FLAIR' }

/** How a contrast is called on the page. */
export function contrastName(contrast: Contrast): string {
  return CONTRAST_NAMES[contrast] ?? contrast
}

/** The maps that can lie over an image, from the lowest to the highest. */
export const KINDS = ['reference', 'margin', 'baseline', 'refined', 'changes', 'uncertainty', 'corrected'] as const
export type Kind = (typeof KINDS)[number]

export type Volumes = Record<string, number>
export type Rgb = [number, number, number]

export interface Report {
  case: string
  rediffinet: string
  platform: string
  intended_use: string
  bundle: { name: string; sha256: string; model: string }
  engine: { used: string; provider: string; device: string; precision: string; version: string }
  sampling: { scheduler: string | null; steps: number; samples: number; seed: number; windows: number }
  seconds: { total: number }
  labels: Record<string, number>
  /** The tumour as data, in reports that have it. */
  task?: { labels: { value: number; name: string; colour: string }[] } | null
  volumes_ml: { baseline: Volumes | null; refined: Volumes }
  flipped_voxels: Volumes | null
  uncertainty: { mean_in_tumour: number; uncertain_ml: number }
  /** Half the width of the bands in which the boundaries lie with that probability; of no region that was not found. */
  margin?: { share: number; median_mm: Record<string, number | null> } | null
  warnings: { code: string; message: string }[]
  outputs: Record<string, string>
}

export interface CorrectionEntry {
  file: string
  url: string
  sha256: string
  who: string
  when: string
  note: string
  from: { file: string; sha256: string }
  changed_voxels: number
  volumes_ml: { before: Volumes; after: Volumes }
  current: boolean
}

export interface Scene {
  case: string
  /** When a service took it. */
  created?: string
  report: Report
  images: { contrast: Contrast; url: string }[]
  maps: Partial<Record<Exclude<Kind, 'changes' | 'corrected'>, string>>
  /** Of the maps' files. */
  sha256: Partial<Record<Kind, string>>
  /** The maps that another program wrote over: the report's numbers are not theirs. */
  altered: Kind[]
  corrections: CorrectionEntry[]
  notes: string[]
}
