/** The server, by addresses relative to the page. */

import type { CorrectionEntry, Scene } from './types'

/** What a server refused, in its own words. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    detail: string
  ) {
    super(detail)
  }
}

export function caseAddress(id: string): string {
  return `v1/cases/${encodeURIComponent(id)}/`
}

export async function getScene(id: string): Promise<Scene> {
  return await ask<Scene>(`${caseAddress(id)}scene`)
}

/** Sends corrected labels: one byte per voxel in the order of the file `from`, whose content has that SHA-256. */
export async function sendCorrection(
  id: string,
  labels: Uint8Array<ArrayBuffer>,
  about: { from: string; sha256: string; who: string; note: string }
): Promise<CorrectionEntry> {
  const packed = new Blob([labels]).stream().pipeThrough(new CompressionStream('gzip'))
  const body = await new Response(packed).arrayBuffer()
  const address = `${caseAddress(id)}corrections?${new URLSearchParams(about)}`
  return await ask<CorrectionEntry>(address, { method: 'POST', body, headers: { 'Content-Type': 'application/octet-stream' } })
}

/** As `fetch`, with words for a server that is not there. */
export async function reach(address: string, options: RequestInit = {}): Promise<Response> {
  try {
    return await fetch(address, options)
  } catch {
    throw new Error('The service does not answer')
  }
}

export async function ask<T>(address: string, options: RequestInit = {}): Promise<T> {
  const response = await taken(address, options)
  return response.status === 204 ? (undefined as T) : ((await response.json()) as T)
}

/** As `reach`; what is refused is thrown in the server's own words. */
export async function taken(address: string, options: RequestInit = {}): Promise<Response> {
  const response = await reach(address, options)
  if (response.ok) return response
  let detail = `${response.status} ${response.statusText}`
  try {
    detail = ((await response.json()) as { detail?: string }).detail ?? detail
  } catch {
    // not a problem document: the status is all there is
  }
  throw new Refused(response.status, detail)
}
