/** The page of one case: images, switches, what is known of it, and corrections. */

import { caseAddress, getScene, Refused } from './api'
import { Correction } from './correct'
import { h, message, millilitres, moment, swatch } from './dom'
import { help, Keyboard, type Group } from './keys'
import { CHANGES } from './maps'
import { provenancePanel, volumesPanel, volumesTable, warningsPanel } from './panel'
import type { Place } from './places'
import { DOUBT, Stage, type View } from './stage'
import { contrastName, KINDS, type Contrast, type CorrectionEntry, type Kind, type Scene } from './types'

const VIEWS: [View, string, string][] = [
  ['planes', 'Planes and 3-D', 'm'],
  ['axial', 'Axial', 'a'],
  ['coronal', 'Coronal', 'c'],
  ['sagittal', 'Sagittal', 's'],
  ['volume', '3-D', 'v']
]
const KIND_NAMES: Record<Kind, [string, string]> = {
  refined: ['Refined', 'r'],
  baseline: ['Baseline', 'b'],
  changes: ['What changed', 'w'],
  uncertainty: ['Uncertainty', 'u'],
  margin: ['Margin', 'n'],
  reference: ['Reference', 'f'],
  corrected: ['Corrected', 'k']
}
const ORDER: Kind[] = ['refined', 'baseline', 'changes', 'uncertainty', 'margin', 'reference', 'corrected']

type Target = 'lesion' | 'change' | 'doubt'
const TARGETS: [Target, string, string][] = [
  ['lesion', 'Largest lesion', 'l'],
  ['change', 'Largest change', 'h'],
  ['doubt', 'Most doubtful place', 'd']
]
/** The map that the places of a sort are found in. */
const SOURCES: Record<Target, Kind> = { lesion: 'refined', change: 'changes', doubt: 'uncertainty' }

const DOUBT_COLOURS = DOUBT.I.map((_, i) => `rgb(${DOUBT.R[i]} ${DOUBT.G[i]} ${DOUBT.B[i]} / ${DOUBT.A[i] / 255})`).join(', ')

/** How a page is left. */
export interface Shown {
  /** Asks when something would be lost; false: stay. */
  mayLeave: () => boolean
  close: () => void
}

/** Shows a case as soon as the server tells of it; returns how to leave it. `failed` hears what went wrong before that. */
export function showCase(page: HTMLElement, id: string, back: (() => void) | null, failed: (error: unknown) => void): Shown {
  let left = false
  let viewer: Viewer | null = null
  const keyboard = new Keyboard()
  const begin = async () => {
    const words = 'Opening the case … Keys pressed now are followed when it is there.'
    page.replaceChildren(h('main', { class: 'opening' }, h('p', { role: 'status' }, words)))
    const scene = await getScene(id)
    if (left) return
    viewer = new Viewer(scene, id, back)
    page.replaceChildren(viewer.element)
    document.title = `${scene.case} – rediff`
    keyboard.follow(() => viewer!.shortcuts())
    await viewer.start()
  }
  begin().catch((error) => {
    if (!left) failed(error)
  })
  return {
    mayLeave: () => viewer?.mayLeave() ?? true,
    close: () => {
      left = true
      keyboard.stop()
      viewer?.close()
    }
  }
}

/** What was asked for before that which it needs was there. */
interface Waiting {
  what: string
  ready: () => boolean
  run: () => void
}

class Viewer {
  readonly element: HTMLElement
  private readonly stage: Stage
  private readonly status = h('p', { role: 'status', class: 'status' })
  private readonly loading = h('p', { class: 'quiet' }, 'Loading …')
  private readonly again = h('button', { type: 'button', hidden: true, onclick: () => void this.loadAgain() }, 'Try again')
  private readonly where = h('p', { class: 'where' })
  private readonly switches = new Map<Kind, HTMLInputElement>()
  private readonly contrastButtons = new Map<Contrast, HTMLInputElement>()
  private readonly viewButtons = new Map<View, HTMLInputElement>()
  private readonly targetButtons = new Map<Target, HTMLButtonElement>()
  private readonly visited = new Map<Target, number>()
  private readonly sideBySide: HTMLInputElement
  private readonly outlines: HTMLInputElement
  private readonly corrections = h('section', { 'aria-labelledby': 'corrections-title', class: 'corrections' })
  /** Of outlines that are all of one colour. */
  private readonly plainLegend = h('ul', { class: 'legend' })
  private readonly correctedName = h('span', {}, 'Corrected')
  /** The row of each saved correction, by its file. */
  private readonly entries = new Map<string, HTMLElement>()
  /** The file of the one that is shown, or was last. */
  private shownEntry = ''
  private waiting: Waiting[] = []
  private readonly beginWith = h('select')
  private correction: Correction | null = null
  /** Of a correction: `begins` while its map is loaded, `ends` while what was saved is. */
  private phase: 'none' | 'begins' | 'draws' | 'ends' = 'none'
  /** Why not everything was loaded; empty when nothing went wrong. */
  private missed = ''
  /** A map was written again, so what is loaded is of an earlier result: trying again would not help. */
  private outdated = false

  constructor(
    private readonly scene: Scene,
    private readonly id: string,
    back: (() => void) | null
  ) {
    this.stage = new Stage(scene, caseAddress(id))
    this.stage.onLocation = (location) => this.tell(location)
    this.sideBySide = h('input', { type: 'checkbox', disabled: true, onchange: () => this.setSideBySide(this.sideBySide.checked) })
    this.outlines = h('input', { type: 'checkbox', onchange: () => this.setOutlines(this.outlines.checked) })
    this.element = h(
      'div',
      { class: 'viewer' },
      h(
        'header',
        {},
        back && h('button', { type: 'button', onclick: back }, 'All cases'),
        h('h1', {}, scene.case),
        scene.created && h('p', { class: 'quiet' }, 'sent ', h('time', { datetime: scene.created }, moment(scene.created))),
        h('p', { class: 'use' }, scene.report.intended_use),
        h('button', { type: 'button', onclick: () => this.help() }, 'Keys ', h('kbd', { 'aria-hidden': 'true' }, '?'))
      ),
      h(
        'main',
        {},
        h('div', { class: 'pictures' }, this.toolbar(), this.stage.element, h('div', { class: 'below' }, this.where, h('div', {}, this.status, this.loading, this.again))),
        h(
          'aside',
          { 'aria-label': 'Case' },
          this.mapsPanel(),
          this.targetsPanel(),
          warningsPanel(scene),
          volumesPanel(scene.report),
          this.corrections,
          provenancePanel(scene.report)
        )
      )
    )
    this.showCorrections()
  }

  async start(): Promise<void> {
    window.addEventListener('beforeunload', this.guard)
    this.loaded(await this.stage.load((what) => this.arrived(what)))
  }

  /** Everything is there, or `problem` kept something away: the rest can be used. */
  private loaded(problem: unknown): void {
    if (problem) {
      this.missed = `not everything could be loaded (${message(problem)})`
      this.loading.textContent = this.missed
      this.loading.classList.add('whole')
      this.outdated = problem instanceof Refused && problem.status === 410
      this.again.textContent = this.outdated ? 'Load the page again' : 'Try again'
      this.again.hidden = false
      if (this.waiting.length) this.say(`${this.waiting[0].what}: ${this.missed}`)
      this.waiting = []
      return
    }
    this.loading.textContent = this.stage.software ? 'No graphics card is in use: 3-D (v) is slow.' : ''
    this.element.dataset.ready = 'true'
  }

  private async loadAgain(): Promise<void> {
    if (this.outdated) return location.reload() // strokes are asked about
    this.missed = ''
    this.loading.classList.remove('whole')
    this.again.hidden = true
    this.loading.textContent = 'Loading …'
    this.loaded(await this.stage.loadRest((what) => this.arrived(what)))
  }

  close(): void {
    window.removeEventListener('beforeunload', this.guard)
    this.correction?.leave()
    this.stage.close()
  }

  mayLeave(): boolean {
    return this.correction?.mayEnd() ?? true
  }

  private readonly guard = (event: BeforeUnloadEvent) => {
    if (this.correction?.unsaved) event.preventDefault()
  }

  /** Something can be switched on now, or jumped to. */
  private arrived(what: Contrast | Kind): void {
    const total = this.scene.images.length + Object.keys(this.scene.maps).length
    const there = this.stage.images.size + Object.keys(this.scene.maps).filter((kind) => this.stage.maps.has(kind as Kind)).length
    this.loading.textContent = `Loaded ${there} of ${total} files`
    const contrast = this.contrastButtons.get(what as Contrast)
    if (contrast) contrast.disabled = false
    const kind = this.switches.get(what as Kind)
    if (kind) kind.disabled = false
    this.sideBySide.disabled = this.stage.images.size < 2 || this.correction !== null
    if (what === 'refined') this.jump('lesion')
    for (const [target, button] of this.targetButtons) button.disabled = !this.places(target)?.length
    this.goOn()
  }

  /** Does it at once, or when what it needs is there; until then the status line says so. */
  private when(ready: () => boolean, what: string, run: () => void): void {
    if (ready()) return run()
    if (this.missed) return this.say(`${what}: ${this.missed}`)
    this.waiting.push({ what, ready, run })
    this.tellWaiting()
  }

  /** Does what waited for that which is there now, in the order in which it was asked for. */
  private goOn(): void {
    const before = this.waiting
    this.waiting = []
    for (const one of before) {
      if (!one.ready()) this.waiting.push(one)
      else {
        this.status.textContent = ''
        one.run()
      }
    }
    if (before.length) this.tellWaiting()
  }

  private tellWaiting(): void {
    const names = [...new Set(this.waiting.map(({ what }) => what))]
    if (names.length) this.status.textContent = `${names.join(', ')}: follows as soon as it is loaded`
  }

  // --- switches -----------------------------------------------------------------------------------------------------

  private toolbar(): HTMLElement {
    const contrasts = this.stage.contrasts.map((contrast, i) => {
      const input = h('input', {
        type: 'radio', name: 'contrast', value: contrast, disabled: true,
        checked: contrast === this.stage.contrast, onchange: () => this.setContrast(contrast)
      })
      this.contrastButtons.set(contrast, input)
      return h('label', {}, input, h('span', {}, contrastName(contrast), ' ', h('kbd', { 'aria-hidden': 'true' }, String(i + 1))))
    })
    const views = VIEWS.map(([view, name, key]) => {
      const input = h('input', {
        type: 'radio', name: 'view', value: view, checked: view === this.stage.view, onchange: () => this.setView(view)
      })
      this.viewButtons.set(view, input)
      return h('label', {}, input, h('span', {}, name, ' ', h('kbd', { 'aria-hidden': 'true' }, key)))
    })
    return h(
      'div',
      { class: 'toolbar' },
      h('fieldset', { class: 'segmented' }, h('legend', {}, 'Contrast'), ...contrasts),
      h('label', { class: 'check' }, this.sideBySide, 'Four side by side ', h('kbd', { 'aria-hidden': 'true' }, 'g')),
      h('fieldset', { class: 'segmented' }, h('legend', {}, 'View'), ...views)
    )
  }

  private mapsPanel(): HTMLElement {
    const rows = ORDER.map((kind) => {
      const [name, key] = KIND_NAMES[kind]
      const input = h('input', {
        type: 'checkbox', disabled: true, checked: this.stage.shown.has(kind), onchange: () => this.toggle(kind, input.checked)
      })
      const slider = h('input', {
        type: 'range', min: 0, max: 1, step: 0.05, value: this.stage.opacity.get(kind), 'aria-label': `Opacity of ${name}`,
        oninput: () => {
          this.stage.opacity.set(kind, Number(slider.value))
          if (this.stage.shown.has(kind)) this.stage.draw()
        }
      })
      this.switches.set(kind, input)
      return h(
        'div',
        { class: 'map', id: `map-${kind}`, hidden: this.never(kind) },
        h('label', { class: 'check' }, input, kind === 'corrected' ? this.correctedName : `${name} `, h('kbd', { 'aria-hidden': 'true' }, key)),
        slider
      )
    })
    return h(
      'section',
      { 'aria-labelledby': 'maps-title' },
      h('h2', { id: 'maps-title' }, 'Over the images'),
      ...rows,
      h('label', { class: 'check' }, this.outlines, 'Outlines only ', h('kbd', { 'aria-hidden': 'true' }, 'o')),
      h(
        'ul',
        { class: 'legend' },
        ...this.stage.labels.map((label) => h('li', {}, swatch(label.rgb), label.name)),
        ...this.stage.bands.map((band) => h('li', { class: 'of-margin' }, swatch(band.rgb), this.bandName(band.name))),
        ...CHANGES.map((change) => h('li', { class: 'of-changes' }, swatch(change.rgb), change.name)),
        h('li', { class: 'of-uncertainty' }, h('span', { class: 'scale', style: `background: linear-gradient(90deg, ${DOUBT_COLOURS})`, 'aria-hidden': 'true' }), 'probability of a wrong label, from 5 % to 50 % and more')
      ),
      this.plainLegend
    )
  }

  /** Whether a case has no such map and will get none. */
  private never(kind: Kind): boolean {
    if (kind === 'corrected') return this.scene.corrections.length === 0
    if (kind === 'changes') return !this.scene.maps.baseline
    return !this.scene.maps[kind]
  }

  private targetsPanel(): HTMLElement {
    const buttons = TARGETS.map(([target, name, key]) => {
      const button = h('button', { type: 'button', disabled: true, onclick: () => this.jump(target) }, `${name} `, h('kbd', { 'aria-hidden': 'true' }, key))
      this.targetButtons.set(target, button)
      return button
    })
    return h(
      'section',
      { 'aria-labelledby': 'targets-title' },
      h('h2', { id: 'targets-title' }, 'Go to'),
      h('div', { class: 'buttons' }, ...buttons)
    )
  }

  private setContrast(contrast: Contrast): void {
    const name = contrastName(contrast)
    this.waiting = this.waiting.filter(({ what }) => !this.stage.contrasts.some((one) => contrastName(one) === what)) // the last counts
    this.when(() => this.stage.images.has(contrast), name, () => {
      if (this.missed && this.status.textContent!.endsWith(this.missed)) this.say('') // of another
      this.stage.contrast = contrast
      this.contrastButtons.get(contrast)!.checked = true
      if (this.stage.sideBySide) this.setSideBySide(false)
      else this.stage.draw()
    })
  }

  private setView(view: View): void {
    this.stage.view = view
    this.viewButtons.get(view)!.checked = true
    this.stage.draw()
  }

  private setSideBySide(on: boolean): void {
    if (this.correction && on) return this.say('One image at a time while labels are corrected')
    if (this.stage.contrasts.length < 2) return this.say('This case has one image')
    this.when(() => this.stage.images.size > 1, 'Four side by side', () => {
      this.sideBySide.checked = on
      this.stage.sideBySide = on
      if (on && this.stage.view === 'planes') this.setView('axial')
      else this.stage.draw()
    })
  }

  private setOutlines(on: boolean): void {
    this.outlines.checked = on
    this.stage.outlines = on
    this.draw()
  }

  private toggle(kind: Kind, on?: boolean): void {
    const name = KIND_NAMES[kind][0]
    if (this.never(kind)) return this.say(`${name}: this case has none`)
    if (kind === 'corrected' && !this.stage.maps.has(kind)) return this.tryEntry(this.scene.corrections.at(-1)!)
    this.when(() => this.stage.maps.has(kind), name, () => {
      const shown = on ?? !this.stage.shown.has(kind)
      this.switches.get(kind)!.checked = shown
      if (shown) this.stage.shown.add(kind)
      else this.stage.shown.delete(kind)
      if (kind === 'corrected') this.markEntry(shown)
      this.element.toggleAttribute(`data-${kind}`, shown)
      this.draw()
    })
  }

  /** What was chosen, and what its colours mean. */
  private draw(): void {
    this.stage.draw()
    this.plainLegend.replaceChildren(...this.stage.plain.map(({ kind, rgb }) => h('li', {}, swatch(rgb), KIND_NAMES[kind][0].toLowerCase())))
  }

  /** The largest place of a sort; asked again, the next. */
  private jump(target: Target): void {
    const name = { lesion: 'Lesion', change: 'Change', doubt: 'Doubtful place' }[target]
    if (this.never(SOURCES[target])) return this.say(`${name}: this case has no map of it`)
    this.when(() => this.places(target) !== undefined, name, () => {
      const places = this.places(target)!
      if (places.length === 0) return this.say(`${name}: there is none`)
      const at = ((this.visited.get(target) ?? -1) + 1) % places.length
      this.visited.set(target, at)
      this.stage.goTo(places[at].voxel)
      const { size } = places[at]
      const measure = target === 'doubt' ? `mean probability of a wrong label ${(100 * size).toFixed(0)} %` : `${millilitres(size * this.stage.voxelMl)} ml`
      this.say(`${name} ${at + 1} of ${places.length}: ${measure}`)
    })
  }

  private places(target: Target): Place[] | undefined {
    return this.stage.places.get(SOURCES[target])
  }

  private move(right: number, front: number, up: number): void {
    this.when(() => this.stage.maps.has('refined'), 'The crosshair', () => this.stage.move(right, front, up))
  }

  private say(text: string): void {
    this.status.textContent = text
  }

  private tell({ mm, voxel }: { mm: number[]; voxel: [number, number, number] }): void {
    const parts = [mm.slice(0, 3).map((value) => value.toFixed(0)).join(', ') + ' mm']
    const image = this.stage.images.get(this.stage.contrast)
    if (image) parts.push(`${contrastName(this.stage.contrast)} ${image.getValue(...voxel).toFixed(0)}`)
    for (const kind of KINDS) {
      const map = this.stage.maps.get(kind)
      if (!map || kind === 'changes' || !this.stage.shown.has(kind)) continue
      const value = map.getValue(...voxel)
      parts.push(`${KIND_NAMES[kind][0].toLowerCase()}: ${this.valueOf(kind, value)}`)
    }
    this.where.textContent = parts.join(' · ')
  }

  private valueOf(kind: Kind, value: number): string {
    if (kind === 'uncertainty') return `${(100 * value).toFixed(0)} %`
    if (kind === 'margin') return this.stage.bands.filter((band) => value & band.value).map((band) => band.name).join(', ') || 'outside'
    return this.stage.labels.find((label) => label.value === value)?.name ?? 'no tumour'
  }

  /** What the legend says of the band around a region's boundary. */
  private bandName(region: string): string {
    const { share, median_mm } = this.scene.report.margin ?? { share: 0.9, median_mm: {} }
    const mm = median_mm[region]
    return `boundary of ${region}, ${(100 * share).toFixed(0)} %${mm ? `: ±${mm.toFixed(1)} mm` : ''}`
  }

  // --- corrections --------------------------------------------------------------------------------------------------

  private showCorrections(): void {
    const options: [Kind, string, string][] = [['refined', this.file('segmentation'), 'Refined']]
    if (this.scene.maps.baseline) options.push(['baseline', this.file('baseline'), 'Baseline'])
    this.beginWith.replaceChildren(
      ...options.map(([, file, name]) => h('option', { value: file }, name)),
      ...this.scene.corrections.map((entry) => h('option', { value: entry.file }, entry.file))
    )
    const button = h('button', { type: 'button', id: 'correct', onclick: () => this.correct() }, 'Correct labels ', h('kbd', { 'aria-hidden': 'true' }, 'e'))
    this.corrections.replaceChildren(
      h('h2', { id: 'corrections-title' }, 'Corrections'),
      ...(this.scene.corrections.length
        ? [h('ul', { class: 'entries' }, ...this.scene.corrections.map((entry) => this.entry(entry)))]
        : [h('p', { class: 'quiet' }, 'None is saved.')]),
      ...(Object.keys(this.scene.report.outputs).some((kind) => kind.startsWith('dicom-'))
        ? [h('p', { class: 'quiet' }, 'The DICOM objects hold the refined map: no correction reaches them.')]
        : []),
      h(
        'div',
        { class: 'buttons' },
        h('label', {}, 'Begin with ', this.beginWith),
        button
      )
    )
    if (document.activeElement === document.body) button.focus({ preventScroll: true }) // which was in what is gone
  }

  private file(output: string): string {
    return this.scene.report.outputs[output]
  }

  private entry(entry: CorrectionEntry): HTMLElement {
    const { before, after } = entry.volumes_ml
    const row = h(
      'li',
      { 'aria-current': String(this.stage.shown.has('corrected') && entry.file === this.shownEntry) },
      h('strong', {}, entry.file),
      ` ${entry.who}, ${new Date(entry.when).toLocaleString()}, from ${entry.from.file}: ${entry.changed_voxels} voxels. ${entry.note}`,
      !entry.current && h('em', {}, ' Made from an earlier result than this one.'),
      volumesTable({ name: 'Before', values: before }, { name: 'After', values: after }),
      h('button', { type: 'button', onclick: () => this.tryEntry(entry) }, 'Show')
    )
    this.entries.set(entry.file, row)
    return row
  }

  /** Shows a correction, or says why it cannot be. */
  private tryEntry(entry: CorrectionEntry): void {
    this.showEntry(entry).catch((error) => this.say(`${entry.file} cannot be shown: ${message(error)}`))
  }

  private async showEntry(entry: CorrectionEntry): Promise<void> {
    await this.stage.loadMap('corrected', entry.url)
    document.getElementById('map-corrected')!.hidden = false
    this.switches.get('corrected')!.disabled = false
    this.correctedName.textContent = `Corrected ${/-(\d+)\.nii/.exec(entry.file)?.[1] ?? ''} `
    this.shownEntry = entry.file
    this.toggle('refined', false)
    this.toggle('corrected', true)
    this.say(`Shows ${entry.file}`)
  }

  /** Marks the entry whose map is shown, or none. */
  private markEntry(shown: boolean): void {
    for (const [file, row] of this.entries) row.setAttribute('aria-current', String(shown && file === this.shownEntry))
  }

  private correct(): void {
    if (this.phase === 'ends') return this.when(() => this.phase === 'none', 'Correcting', () => this.correct())
    if (this.phase !== 'none') return this.say('Labels are being corrected')
    const file = this.beginWith.value
    const earlier = this.scene.corrections.find((entry) => entry.file === file)
    this.phase = 'begins'
    if (earlier) {
      const problem = (error: unknown) => {
        this.phase = 'none'
        this.say(`${file} cannot be shown: ${message(error)}`)
      }
      this.showEntry(earlier).then(() => this.begin(file, 'corrected', earlier.sha256), problem)
    } else {
      const kind = file === this.file('baseline') ? 'baseline' : 'refined'
      this.when(() => this.stage.maps.has(kind), 'Correcting', () => this.begin(file, kind, this.scene.sha256[kind]!))
    }
  }

  private begin(file: string, kind: Kind, sha256: string): void {
    this.setSideBySide(false)
    this.sideBySide.disabled = true
    if (this.stage.view === 'volume') this.setView('planes')
    for (const shown of [...this.stage.shown]) if (shown !== 'uncertainty') this.toggle(shown, false)
    const focused = this.corrections.contains(document.activeElement)
    this.correction = new Correction(this.id, this.stage, { kind, file, sha256 }, (entry) => void this.corrected(entry))
    this.phase = 'draws'
    this.corrections.replaceChildren(h('h2', { id: 'corrections-title' }, 'Corrections'), this.correction.element)
    if (focused) this.correction.focus()
    this.element.dataset.correcting = 'true' // which puts the form on top
    this.corrections.parentElement!.scrollTop = 0
    this.say('Correcting labels')
    this.goOn()
  }

  /** Something of the pen: now, or when the correction that is about to begin has begun. */
  private pen(act: (correction: Correction) => void): void {
    if (this.phase === 'none' || this.phase === 'ends') return this.say('Correct labels (e) first')
    this.when(() => this.phase === 'draws', 'Correcting', () => act(this.correction!))
  }

  /** Discards the correction, or else what waits. */
  private discard(): void {
    if (this.phase === 'draws') return this.correction!.stop()
    if (this.waiting.length === 0) return
    this.waiting = []
    if (this.phase === 'begins') this.phase = 'none'
    this.say('Nothing follows any more')
  }

  private async corrected(entry: CorrectionEntry | null): Promise<void> {
    this.correction = null
    this.phase = 'ends'
    delete this.element.dataset.correcting
    this.sideBySide.disabled = this.stage.images.size < 2
    try {
      if (entry) this.scene.corrections = (await getScene(this.id)).corrections
      this.showCorrections()
      if (entry) await this.showEntry(this.scene.corrections.find((one) => one.file === entry.file)!)
      else this.toggle('refined', true)
      this.say(entry ? `Saved ${entry.file}` : 'Nothing was saved')
    } catch (error) {
      this.showCorrections()
      this.say(`Saved ${entry!.file}, which cannot be shown: ${message(error)}`)
    }
    this.phase = 'none'
    this.goOn()
  }

  // --- keys ---------------------------------------------------------------------------------------------------------

  /** Digits go on after those of the contrasts. */
  private penKey(label: number): string {
    return String(this.stage.contrasts.length + 1 + label)
  }

  private help(): void {
    const dialog = help(this.shortcuts())
    document.body.append(dialog)
    dialog.showModal()
  }

  shortcuts(): Group[] {
    const groups: Group[] = [
      {
        title: 'Images',
        shortcuts: [
          ...this.stage.contrasts.map((contrast, i) => ({ keys: [String(i + 1)], text: contrastName(contrast), run: () => this.setContrast(contrast) })),
          { keys: ['g'], text: 'four side by side', run: () => this.setSideBySide(!this.stage.sideBySide) },
          ...VIEWS.map(([view, name, key]) => ({ keys: [key], text: name.replace(/^[A-Z]/, (first) => first.toLowerCase()), run: () => this.setView(view) }))
        ]
      },
      {
        title: 'Maps',
        shortcuts: [
          ...ORDER.map((kind) => ({ keys: [KIND_NAMES[kind][1]], text: KIND_NAMES[kind][0].toLowerCase(), run: () => this.toggle(kind) })),
          { keys: ['o'], text: 'outlines only', run: () => this.setOutlines(!this.stage.outlines) }
        ]
      },
      {
        title: 'Places',
        shortcuts: [
          ...TARGETS.map(([target, name, key]) => ({ keys: [key], text: `${name.toLowerCase()}, then the next`, run: () => this.jump(target) })),
          { keys: ['ArrowLeft'], text: "towards the patient's right", run: () => this.move(-1, 0, 0) },
          { keys: ['ArrowRight'], text: "towards the patient's left", run: () => this.move(1, 0, 0) },
          { keys: ['ArrowUp'], text: 'to the front', run: () => this.move(0, 1, 0) },
          { keys: ['ArrowDown'], text: 'to the back', run: () => this.move(0, -1, 0) },
          { keys: ['PageUp'], text: 'up', run: () => this.move(0, 0, 1) },
          { keys: ['PageDown'], text: 'down', run: () => this.move(0, 0, -1) }
        ]
      },
      {
        title: 'Correcting',
        shortcuts: [
          { keys: ['e'], text: 'correct labels', run: () => this.correct() },
          ...this.stage.labels.map((label, i) => ({ keys: [this.penKey(i)], text: `pen: ${label.name}`, run: () => this.pen((correction) => correction.pick(i)) })),
          { keys: ['x'], text: 'eraser', run: () => this.pen((correction) => correction.pick(-1)) },
          { keys: ['['], text: 'smaller pen', run: () => this.pen((correction) => correction.resize(-1)) },
          { keys: [']'], text: 'larger pen', run: () => this.pen((correction) => correction.resize(1)) },
          { keys: ['ctrl+z'], text: 'undo', run: () => this.pen((correction) => correction.undo()) },
          { keys: ['Escape'], text: 'discard, or wait no longer', run: () => this.discard() }
        ]
      },
      { title: 'Page', shortcuts: [{ keys: ['?'], text: 'these keys', run: () => this.help() }] }
    ]
    return groups
  }
}
