/** What was dropped, sorted into cases, and the way of a case to the server. */

import { Refused } from './api'

const CONTRASTS = ['t1n', 't1c', 't2w', 't2f'] as const
type Contrast = (typeof CONTRASTS)[number]
/** Endings of file names by contrast: BraTS 2023, then the years before. */
const ENDINGS: Record<Contrast, string[]> = { t1n: ['t1n', 't1'], t1c: ['t1c', 't1ce'], t2w: ['t2w', 't2'], t2f: ['t2f', 'flair'] }
/** What systems put into folders, and what tells of an image beside it. */
const BESIDE = /^\.|^(?:thumbs\.db|desktop\.ini)$|\.(?:json|bval|bvec)$/i
const IMAGE = /^(?:(.+)[-_])?([a-z0-9]+)\.nii(?:\.gz)?$/i

/** One case to send: its name and its parts, the four contrasts or an archive of them. */
export interface Parcel {
  name: string
  parts: Record<string, File>
}

/** Options that go with every case: fields of the request by name. */
export type Options = Record<string, string>

/** A file, and the path of the folder in which it was dropped: empty for a file by itself. */
export interface Found {
  file: File
  folder: string
}

/** What may be one case: the images of one folder with one name before the contrast. */
interface Group {
  folder: string
  name: string
  images: Record<Contrast, File[]>
}

/**
 * Cases among files: four images of one folder with one name before the contrast, or a zip each; and what does not fit, in words.
 * Images of two folders never make one case, and where a contrast is there twice nobody knows which one is meant: nothing is sent.
 */
export function sortFiles(files: Iterable<Found>): { parcels: Parcel[]; problems: string[] } {
  const sorted: (Parcel & { folder: string; bare: boolean })[] = []
  const problems: string[] = []
  const unknown: string[] = []
  const groups = new Map<string, Group>()
  for (const { file, folder } of files) {
    if (BESIDE.test(file.name)) continue
    if (/\.zip$/i.test(file.name)) {
      sorted.push({ name: file.name.replace(/\.zip$/i, ''), parts: { archive: file }, folder, bare: false })
      continue
    }
    const [, name = '', ending = ''] = IMAGE.exec(file.name) ?? []
    const contrast = CONTRASTS.find((one) => ENDINGS[one].includes(ending.toLowerCase()))
    if (!contrast) {
      if (ending.toLowerCase() !== 'seg') unknown.push(file.name)
      continue
    }
    const key = `${folder}/${name}`
    const group = groups.get(key) ?? { folder, name, images: { t1n: [], t1c: [], t2w: [], t2f: [] } }
    group.images[contrast].push(file)
    groups.set(key, group)
  }
  const more = unknown.length > 3 ? ` and ${unknown.length - 2} more` : ''
  const listed = unknown.slice(0, more ? 2 : 3).join(', ')
  if (unknown.length) problems.push(`${listed}${more}: not a zip, and no name of an image such as ID-t1c.nii.gz. DICOM comes as one zip of the examination.`)
  for (const { folder, name, images } of groups.values()) {
    const called = [folder, name].filter(Boolean).join('/') || 'case'
    const twice = CONTRASTS.filter((contrast) => images[contrast].length > 1)
    const missing = CONTRASTS.filter((contrast) => images[contrast].length === 0)
    if (twice.length) {
      const which = twice.flatMap((contrast) => images[contrast].map((file) => file.name)).join(', ')
      problems.push(`${called}: ${twice.join(', ')} more than once (${which}). Nothing of it is sent: a case is four images.`)
    } else if (missing.length) problems.push(`${called}: ${missing.join(', ')} missing. A case is four images.`)
    else {
      const parts = Object.fromEntries(CONTRASTS.map((contrast) => [contrast, images[contrast][0]]))
      sorted.push({ name: name || folder.split('/').pop() || 'case', parts, folder, bare: !name })
    }
  }
  if (!sorted.length && !problems.length) problems.push('Nothing to send was found. A case is four images, or a zip.')
  // cases of one name are told apart by their folders
  const parcels = sorted.map(({ name, parts, folder, bare }) => {
    const alone = !folder || sorted.filter((one) => one.name === name).length === 1
    return { name: alone ? name : `${folder.replaceAll('/', '-')}${bare ? '' : `-${name}`}`, parts }
  })
  return { parcels, problems }
}

/** Files that were chosen. */
export function chosenFiles(files: Iterable<File>): Found[] {
  return Array.from(files, (file) => ({ file, folder: folderOf(file.webkitRelativePath) }))
}

/** Every file that was dropped, those in folders too. */
export async function droppedFiles(data: DataTransfer): Promise<Found[]> {
  const entries = [...data.items].map((item) => item.webkitGetAsEntry()).filter((entry) => entry !== null)
  const found: Found[] = []
  const visit = async (entry: FileSystemEntry): Promise<void> => {
    if (entry.isFile) {
      const file = await new Promise<File>((done, failed) => (entry as FileSystemFileEntry).file(done, failed))
      found.push({ file, folder: folderOf(entry.fullPath) })
      return
    }
    const reader = (entry as FileSystemDirectoryEntry).createReader()
    for (;;) {
      const some = await new Promise<FileSystemEntry[]>((done, failed) => reader.readEntries(done, failed))
      if (some.length === 0) return
      for (const one of some) await visit(one)
    }
  }
  for (const entry of entries) await visit(entry)
  return found
}

/** `a/b` of the file `/a/b/c`. */
function folderOf(path: string): string {
  return path.split('/').slice(0, -1).filter(Boolean).join('/')
}

/** Why a case is sent again, and in how many seconds. */
export interface Again {
  why: string
  seconds: number
}

const LOST: Again = { why: 'The connection was lost', seconds: 3 }
/** So often a case is sent again whose connection was lost. */
const TRIES = 5

/**
 * Sends a case; `told` hears how much of it is there, from 0 to 1, and when it is sent again.
 * The same key goes with every try: a case that had arrived is not taken twice.
 */
export async function send(parcel: Parcel, options: Options, told: (share: number, again?: Again) => void): Promise<void> {
  let lost = 0
  const key = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('')
  for (;;) {
    const again = await sendOnce(parcel, options, key, (share) => told(share))
    if (again === null) return
    if (again === LOST && ++lost > TRIES) {
      throw new Error('The connection was lost, or a file was changed or removed. Look in the list whether the case has arrived, before it is sent again.')
    }
    told(0, again)
    await new Promise((done) => setTimeout(done, 1000 * again.seconds))
  }
}

/** null when the case was taken, or why it is to be sent again; Refused otherwise. */
function sendOnce(parcel: Parcel, options: Options, key: string, told: (share: number) => void): Promise<Again | null> {
  const form = new FormData()
  form.set('name', parcel.name)
  for (const [field, value] of Object.entries(options)) form.set(field, value)
  for (const [part, file] of Object.entries(parcel.parts)) form.set(part, file, file.name)
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest()
    request.open('POST', 'v1/cases')
    request.setRequestHeader('Idempotency-Key', key)
    request.responseType = 'json'
    request.upload.onprogress = (event) => told(event.total ? event.loaded / event.total : 0)
    request.onerror = () => done(LOST)
    request.onload = () => {
      if (request.status < 300) done(null)
      else if (request.status === 429) done({ why: 'The queue is full', seconds: Math.max(Number(request.getResponseHeader('Retry-After')) || 5, 1) })
      else failed(new Refused(request.status, (request.response as { detail?: string } | null)?.detail ?? `${request.status} ${request.statusText}`))
    }
    request.send(form)
  })
}
