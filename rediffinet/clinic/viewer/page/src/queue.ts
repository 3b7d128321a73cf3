/** The page of a service: cases are dropped here, wait, are computed, and are opened. */

import { ask, caseAddress, Refused } from './api'
import { h, message, millilitres, moment } from './dom'
import type { Volumes } from './types'
import { chosenFiles, droppedFiles, send, sortFiles, type Found, type Options, type Parcel } from './uploads'

export interface Listed {
  cases: CaseInfo[]
  /** `before` of the request for older ones, null when there are none. */
  next?: number | null
  accepts: boolean
}

export interface CaseInfo {
  id: string
  case: string
  state: 'queued' | 'running' | 'done' | 'failed' | 'cancelled'
  created: string
  started: string | null
  finished: string | null
  ahead?: number
  progress?: { stage: string; done: number; of: number } | null
  cancelling?: boolean
  problem?: { detail: string } | null
  result?: { seconds: number; volumes_ml: Record<string, Volumes | null>; warnings: string[]; zip: string } | null
}

const EVERY_MS = 1500
/** So many more cases are listed when older ones are asked for. */
const STEP = 50
/** The service lists so many at most at a time. */
const AT_ONCE = 500
const USE = 'Research use only, not a medical device. No clinical decision may rest on its output.'

/** One for the life of the page: cases are sent on while one is looked at, and what was refused is still told then. */
let queue: Queue | null = null

export function showQueue(page: HTMLElement, open: (id: string) => void): () => void {
  const shown = (queue ??= new Queue(open))
  page.replaceChildren(shown.element)
  document.title = 'rediff'
  shown.start()
  return () => shown.stop()
}

/** The newest cases, at most `most`, and whether there are older ones. */
async function newest(most: number): Promise<{ cases: CaseInfo[]; older: boolean }> {
  const cases: CaseInfo[] = []
  let next: number | null = null
  do {
    const before: string = next === null ? '' : `&before=${next}`
    const listed: Listed = await ask<Listed>(`v1/cases?limit=${Math.min(most - cases.length, AT_ONCE)}${before}`)
    cases.push(...listed.cases)
    next = listed.next ?? null
  } while (next !== null && cases.length < most)
  return { cases, older: next !== null }
}

class Queue {
  readonly element: HTMLElement
  private readonly said = h('div', { role: 'status', class: 'said' })
  private readonly body = h('tbody')
  private readonly rows = new Map<string, { told: string; row: HTMLTableRowElement }>()
  private readonly prepare = h('input', { type: 'checkbox' })
  private readonly seg = h('input', { type: 'checkbox' })
  private readonly empty = h('p', { class: 'quiet' }, 'No case yet.')
  private readonly more = h('p', { hidden: true })
  private readonly older = h('button', { type: 'button', hidden: true, onclick: () => {
    this.most += STEP
    void this.refresh()
  } }, 'Older cases')
  private most = STEP
  /** Cases that are not sent yet, that which is being sent among them. */
  private waiting = 0
  private last: Promise<void> = Promise.resolve()
  private timer = 0
  private stopped = true

  constructor(private readonly open: (id: string) => void) {
    const chooser = h('input', { type: 'file', multiple: true, id: 'files', accept: '.nii,.gz,.zip', onchange: () => {
      this.take(chosenFiles(chooser.files ?? []))
      chooser.value = ''
    } })
    const zone = h(
      'section',
      { class: 'drop', 'aria-labelledby': 'drop-title' },
      h('h2', { id: 'drop-title' }, 'New cases'),
      h('p', {}, 'Drop the four images of a case here (ID-t1n, ID-t1c, ID-t2w, ID-t2f; .nii or .nii.gz), folders of them, or a zip for each case, NIfTI or DICOM.'),
      h(
        'div',
        { class: 'options' },
        h('label', { class: 'check' }, this.prepare, 'Raw scans: prepare them first (DICOM always is)'),
        h('label', { class: 'check' }, this.seg, 'For DICOM: make a DICOM segmentation')
      ),
      h('label', { for: 'files' }, 'Choose files'),
      chooser,
      this.said,
      this.more
    )
    for (const name of ['dragenter', 'dragover']) {
      zone.addEventListener(name, (event) => {
        event.preventDefault()
        zone.classList.add('over')
      })
    }
    zone.addEventListener('dragleave', () => zone.classList.remove('over'))
    zone.addEventListener('drop', (event) => {
      event.preventDefault()
      zone.classList.remove('over')
      if (event.dataTransfer) {
        droppedFiles(event.dataTransfer).then((files) => this.take(files), (error) => this.say(`What was dropped cannot be read: ${message(error)}`))
      }
    })
    const heads = ['Case', 'Sent', 'State', 'Volumes in ml', 'Warnings', '']
    this.element = h(
      'div',
      { class: 'queue' },
      h('header', {}, h('h1', {}, 'rediff'), h('p', { class: 'use' }, USE)),
      h(
        'main',
        {},
        zone,
        h(
          'section',
          { 'aria-labelledby': 'cases-title' },
          h('h2', { id: 'cases-title' }, 'Cases'),
          this.empty,
          h(
            'table',
            { 'aria-labelledby': 'cases-title' },
            h('thead', {}, h('tr', {}, ...heads.map((head) => (head ? h('th', { scope: 'col' }, head) : h('td'))))),
            this.body
          ),
          this.older
        )
      )
    )
  }

  start(): void {
    this.stopped = false
    document.addEventListener('visibilitychange', this.look)
    void this.refresh()
  }

  stop(): void {
    this.stopped = true
    clearTimeout(this.timer)
    document.removeEventListener('visibilitychange', this.look)
  }

  private readonly look = () => {
    if (!document.hidden) void this.refresh()
  }

  private async refresh(): Promise<void> {
    if (this.stopped) return
    clearTimeout(this.timer)
    try {
      const { cases, older } = await newest(this.most)
      this.fill(cases)
      const asked = document.activeElement === this.older
      this.older.hidden = !older
      if (asked && !older) this.body.querySelector<HTMLElement>('tr:last-child button, tr:last-child a')?.focus() // the oldest, which were asked for
    } catch (error) {
      this.empty.hidden = false
      this.empty.textContent = error instanceof Refused ? `The service cannot list its cases: ${error.message}` : message(error)
    }
    clearTimeout(this.timer)
    if (!this.stopped && !document.hidden) this.timer = window.setTimeout(() => void this.refresh(), EVERY_MS)
  }

  /** Rows are kept as long as nothing is new in them, so that the focus stays where it was. */
  private fill(cases: CaseInfo[]): void {
    this.empty.hidden = cases.length > 0
    this.empty.textContent = 'No case yet.'
    const gone = new Set(this.rows.keys())
    cases.forEach((one, place) => {
      gone.delete(one.id)
      const told = JSON.stringify(one)
      const known = this.rows.get(one.id)
      const row = known?.told === told ? known.row : this.row(one)
      if (known && known.row !== row) known.row.replaceWith(row)
      this.rows.set(one.id, { told, row })
      if (this.body.rows[place] !== row) this.body.insertBefore(row, this.body.rows[place] ?? null)
    })
    for (const id of gone) {
      this.rows.get(id)!.row.remove()
      this.rows.delete(id)
    }
  }

  private row(one: CaseInfo): HTMLTableRowElement {
    const volumes = one.result?.volumes_ml.refined
    const ended = one.state !== 'queued' && one.state !== 'running'
    const sent = moment(one.created)
    const called = `${one.case}, sent ${sent}` // two cases may have one name
    const button = (name: string, run: () => void) => h('button', { type: 'button', onclick: run, 'aria-label': `${name} ${called}` }, name)
    return h(
      'tr',
      { 'data-state': one.state },
      h('th', { scope: 'row' }, one.case),
      h('td', { 'data-head': 'Sent' }, h('time', { datetime: one.created }, sent)),
      h('td', {}, ...state(one)),
      h('td', { 'data-head': 'ml' }, volumes ? Object.entries(volumes).map(([region, ml]) => `${region} ${millilitres(ml)}`).join(', ') : ''),
      h('td', { 'data-head': 'Warnings' }, one.result ? one.result.warnings.join(', ') || 'none' : ''),
      h(
        'td',
        { class: 'buttons' },
        one.result && button('Open', () => this.open(one.id)),
        one.result && h('a', { href: one.result.zip, download: true, 'aria-label': `Files of ${called}` }, 'Files'),
        !ended && !one.cancelling && button('Cancel', () => void this.act(`${caseAddress(one.id)}cancel`, 'POST')),
        ended && button('Remove', () => {
          if (window.confirm(`Remove ${called}, and all its files?`)) void this.act(caseAddress(one.id).slice(0, -1), 'DELETE')
        })
      )
    )
  }

  private async act(address: string, method: string): Promise<void> {
    try {
      await ask(address, { method })
    } catch (error) {
      this.say(message(error))
    }
    await this.refresh()
  }

  /** Sends cases one after the other, and after those of before. */
  private take(files: Found[]): void {
    const { parcels, problems } = sortFiles(files)
    const wanted = { prepare: String(this.prepare.checked), dicom_seg: String(this.seg.checked) }
    if (this.waiting === 0) this.said.replaceChildren()
    for (const problem of problems) this.say(problem)
    this.wait(parcels.length)
    for (const parcel of parcels) {
      // images that are not DICOM have no DICOM segmentation
      const options = parcel.parts.archive ? wanted : { prepare: wanted.prepare }
      this.last = this.last.then(() => this.send(parcel, options)).finally(() => this.wait(-1))
    }
  }

  private async send(parcel: Parcel, options: Options): Promise<void> {
    const bar = h('progress', { max: 1, value: 0, 'aria-label': `Sending ${parcel.name}` })
    const words = h('span', {}, `Sending ${parcel.name}`)
    const line = h('p', {}, words, ' ', bar)
    this.said.append(line)
    try {
      await send(parcel, options, (share, again) => {
        bar.value = share
        words.textContent = again ? `${again.why}: ${parcel.name} is sent again in ${again.seconds} s` : `Sending ${parcel.name}`
      })
      line.remove()
    } catch (error) {
      line.replaceChildren(`${parcel.name}${error instanceof Refused ? ' was not taken' : ''}: ${message(error)}`)
      line.classList.add('problem')
    }
    await this.refresh()
  }

  /** Counts what is to be sent; while there is something, the browser asks before the page is closed. */
  private wait(change: number): void {
    this.waiting += change
    this.more.hidden = this.waiting < 2
    this.more.textContent = `${this.waiting - 1} more to send`
    if (this.waiting > 0) window.addEventListener('beforeunload', this.guard)
    else window.removeEventListener('beforeunload', this.guard)
  }

  private readonly guard = (event: BeforeUnloadEvent) => event.preventDefault()

  private say(problem: string): void {
    this.said.append(h('p', { class: 'problem' }, problem))
  }
}

function state(one: CaseInfo): (Node | string)[] {
  if (one.state === 'queued') return [one.ahead ? `waits, ${one.ahead} before it` : 'waits']
  if (one.state === 'running') {
    if (one.cancelling) return ['being cancelled']
    if (!one.progress) return ['begins']
    const { stage, done, of } = one.progress
    return [`${stage} `, h('progress', { max: Math.max(of, 1), value: done, 'aria-label': `${one.case}: ${stage}, ${done} of ${of}` })]
  }
  if (one.state === 'failed') return [`failed: ${one.problem?.detail ?? 'no reason is known'}`]
  if (one.state === 'done') return [one.started && one.finished ? `done in ${((Date.parse(one.finished) - Date.parse(one.started)) / 1000).toFixed(0)} s` : 'done']
  return [one.state]
}
