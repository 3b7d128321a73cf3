/** The page of one case: images, switches, what is known of it, and corrections. */

import { caseAddress, getScene } from './api'
import { Correction } from './correct'
import { h, millilitres, swatch } from './dom'
import { help, listen, type Group } from './keys'
import { CHANGES } from './maps'
import { provenancePanel, volumesPanel, volumesTable, warningsPanel } from './panel'
import { components, doubts, type Place } from './places'
import { Stage, type View } from './stage'
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
  reference: ['Reference', 'f'],
  corrected: ['Corrected', 'k']
}
const ORDER: Kind[] = ['refined', 'baseline', 'changes', 'uncertainty', 'reference', 'corrected']

type Target = 'lesion' | 'change' | 'doubt'
const TARGETS: [Target, string, string][] = [
  ['lesion', 'Largest lesion', 'l'],
  ['change', 'Largest change', 'h'],
  ['doubt', 'Most doubtful place', 'd']
]

/** Shows a case as soon as the server tells of it; returns how to leave it. `failed` hears what went wrong before that. */
export function showCase(page: HTMLElement, id: string, back: (() => void) | null, failed: (error: unknown) => void): () => void {
  let left = false
  let viewer: Viewer | null = null
  const begin = async () => {
    const scene = await getScene(id)
    if (left) return
    viewer = new Viewer(scene, id, back)
    page.replaceChildren(viewer.element)
    document.title = `${scene.case} – rediff`
    await viewer.start()
  }
  begin().catch((error) => {
    if (!left) failed(error)
  })
  return () => {
    left = true
    viewer?.close()
  }
}

class Viewer {
  readonly element: HTMLElement
  private readonly stage: Stage
  private readonly status = h('p', { role: 'status', class: 'status' }, 'Loading …')
  private readonly where = h('p', { class: 'where' })
  private readonly switches = new Map<Kind, HTMLInputElement>()
  private readonly contrastButtons = new Map<Contrast, HTMLInputElement>()
  private readonly viewButtons = new Map<View, HTMLInputElement>()
  private readonly targetButtons = new Map<Target, HTMLButtonElement>()
  private readonly places = new Map<Target, Place[]>()
  private readonly visited = new Map<Target, number>()
  private readonly sideBySide: HTMLInputElement
  private readonly outlines: HTMLInputElement
  private readonly corrections = h('section', { 'aria-labelledby': 'corrections-title', class: 'corrections' })
  private correction: Correction | null = null
  private stopKeys: () => void = () => {}

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
        h('p', { class: 'use' }, scene.report.intended_use),
        h('button', { type: 'button', onclick: () => this.help() }, 'Keys ', h('kbd', { 'aria-hidden': 'true' }, '?'))
      ),
      h(
        'main',
        {},
        h('div', { class: 'pictures' }, this.toolbar(), this.stage.element, h('div', { class: 'below' }, this.where, this.status)),
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
    this.stopKeys = listen(() => this.shortcuts())
    window.addEventListener('beforeunload', this.guard)
    const total = this.scene.images.length + Object.keys(this.scene.maps).length
    const loaded = new Set<string>()
    await this.stage.load((what) => {
      loaded.add(what)
      this.arrived(what)
      this.status.textContent = `Loaded ${[...loaded].filter((name) => name !== 'changes').length} of ${total} files`
    })
    this.status.textContent = this.stage.software ? 'No graphics card is in use: 3-D (v) is slow.' : ''
    this.element.dataset.ready = 'true'
  }

  close(): void {
    this.stopKeys()
    window.removeEventListener('beforeunload', this.guard)
    this.stage.close()
  }

  private readonly guard = (event: BeforeUnloadEvent) => {
    if (this.correction && this.correction.strokes > 0) event.preventDefault()
  }

  /** Something can be switched on now, or jumped to. */
  private arrived(what: Contrast | Kind): void {
    const contrast = this.contrastButtons.get(what as Contrast)
    if (contrast) contrast.disabled = false
    const kind = this.switches.get(what as Kind)
    if (kind) kind.disabled = false
    this.sideBySide.disabled = this.stage.images.size < 2 || this.correction !== null
    const shape = () => this.stage.shape
    if (what === 'refined') {
      this.places.set('lesion', components(this.stage.labelsIn('refined')!, shape()))
      this.jump('lesion')
    }
    if (what === 'changes') this.places.set('change', components(this.stage.labelsIn('changes')!, shape()))
    if (what === 'uncertainty') {
      const map = this.stage.maps.get('uncertainty')!
      this.places.set('doubt', doubts(map.img!, shape()))
    }
    for (const [target, button] of this.targetButtons) button.disabled = !this.places.get(target)?.length
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
        h('label', { class: 'check' }, input, `${name} `, h('kbd', { 'aria-hidden': 'true' }, key)),
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
        ...CHANGES.map((change) => h('li', { class: 'of-changes' }, swatch(change.rgb), change.name))
      )
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
    if (!this.stage.images.has(contrast)) return
    this.stage.contrast = contrast
    this.contrastButtons.get(contrast)!.checked = true
    if (this.stage.sideBySide) this.setSideBySide(false)
    else this.stage.draw()
  }

  private setView(view: View): void {
    this.stage.view = view
    this.viewButtons.get(view)!.checked = true
    this.stage.draw()
  }

  private setSideBySide(on: boolean): void {
    if (this.sideBySide.disabled && on) return
    this.sideBySide.checked = on
    this.stage.sideBySide = on
    if (on && this.stage.view === 'planes') this.setView('axial')
    else this.stage.draw()
  }

  private setOutlines(on: boolean): void {
    this.outlines.checked = on
    this.stage.outlines = on
    this.stage.draw()
  }

  private toggle(kind: Kind, on = !this.stage.shown.has(kind)): void {
    const input = this.switches.get(kind)!
    if (input.disabled) return
    input.checked = on
    if (on) this.stage.shown.add(kind)
    else this.stage.shown.delete(kind)
    if (kind === 'changes') this.element.toggleAttribute('data-changes', on)
    this.stage.draw()
  }

  /** The largest place of a sort; asked again, the next. */
  private jump(target: Target): void {
    const places = this.places.get(target) ?? []
    if (places.length === 0) return
    const index = (this.visited.get(target) ?? -1) + 1
    const at = index % places.length
    this.visited.set(target, at)
    this.stage.goTo(places[at].voxel)
    const { size } = places[at]
    const measure = target === 'doubt' ? `mean probability of a wrong label ${(100 * size).toFixed(0)} %` : `${millilitres(size * this.stage.voxelMl)} ml`
    const name = { lesion: 'Lesion', change: 'Change', doubt: 'Doubtful place' }[target]
    this.status.textContent = `${name} ${at + 1} of ${places.length}: ${measure}`
  }

  private tell({ mm, voxel }: { mm: number[]; voxel: [number, number, number] }): void {
    const parts = [mm.slice(0, 3).map((value) => value.toFixed(0)).join(', ') + ' mm']
    const image = this.stage.images.get(this.stage.contrast)
    if (image) parts.push(`${contrastName(this.stage.contrast)} ${image.getValue(...voxel).toFixed(0)}`)
    for (const kind of KINDS) {
      const map = this.stage.maps.get(kind)
      if (!map || kind === 'changes' || !this.stage.shown.has(kind)) continue
      const value = map.getValue(...voxel)
      const label = this.stage.labels.find((one) => one.value === value)?.name ?? 'no tumour'
      parts.push(`${KIND_NAMES[kind][0].toLowerCase()}: ${kind === 'uncertainty' ? `${(100 * value).toFixed(0)} %` : label}`)
    }
    this.where.textContent = parts.join(' · ')
  }

  // --- corrections --------------------------------------------------------------------------------------------------

  private showCorrections(): void {
    const options: [Kind, string, string][] = [['refined', this.file('segmentation'), 'Refined']]
    if (this.scene.maps.baseline) options.push(['baseline', this.file('baseline'), 'Baseline'])
    const select = h(
      'select',
      {},
      ...options.map(([, file, name]) => h('option', { value: file }, name)),
      ...this.scene.corrections.map((entry) => h('option', { value: entry.file }, entry.file))
    )
    this.corrections.replaceChildren(
      h('h2', { id: 'corrections-title' }, 'Corrections'),
      ...(this.scene.corrections.length
        ? [h('ul', { class: 'entries' }, ...this.scene.corrections.map((entry) => this.entry(entry)))]
        : [h('p', { class: 'quiet' }, 'None is saved.')]),
      h(
        'div',
        { class: 'buttons' },
        h('label', {}, 'Begin with ', select),
        h('button', { type: 'button', id: 'correct', onclick: () => void this.correct(select.value) }, 'Correct labels ', h('kbd', { 'aria-hidden': 'true' }, 'e'))
      )
    )
  }

  private file(output: string): string {
    return this.scene.report.outputs[output]
  }

  private entry(entry: CorrectionEntry): HTMLElement {
    const { before, after } = entry.volumes_ml
    return h(
      'li',
      {},
      h('strong', {}, entry.file),
      ` ${entry.who}, ${new Date(entry.when).toLocaleString()}, from ${entry.from.file}: ${entry.changed_voxels} voxels. ${entry.note}`,
      !entry.current && h('em', {}, ' Made from an earlier result than this one.'),
      volumesTable({ name: 'Before', values: before }, { name: 'After', values: after }),
      h('button', { type: 'button', onclick: () => void this.showEntry(entry) }, 'Show')
    )
  }

  private async showEntry(entry: CorrectionEntry): Promise<void> {
    await this.stage.loadMap('corrected', entry.url)
    document.getElementById('map-corrected')!.hidden = false
    this.switches.get('corrected')!.disabled = false
    this.toggle('refined', false)
    this.toggle('corrected', true)
    this.status.textContent = `Shows ${entry.file}`
  }

  private async correct(file = this.file('segmentation')): Promise<void> {
    if (this.correction || !this.stage.maps.has('refined')) return
    let kind: Kind = file === this.file('baseline') ? 'baseline' : 'refined'
    const earlier = this.scene.corrections.find((entry) => entry.file === file)
    if (earlier) {
      await this.showEntry(earlier)
      kind = 'corrected'
    }
    if (!this.stage.maps.has(kind)) return
    this.setSideBySide(false)
    this.sideBySide.disabled = true
    if (this.stage.view === 'volume') this.setView('planes')
    for (const shown of [...this.stage.shown]) if (shown !== 'uncertainty') this.toggle(shown, false)
    this.correction = new Correction(this.id, this.stage, { kind, file }, (entry) => void this.corrected(entry))
    this.corrections.replaceChildren(h('h2', { id: 'corrections-title' }, 'Corrections'), this.correction.element)
    this.element.dataset.correcting = 'true' // which puts the form on top
    this.corrections.parentElement!.scrollTop = 0
    this.status.textContent = 'Correcting labels'
  }

  private async corrected(entry: CorrectionEntry | null): Promise<void> {
    this.correction = null
    delete this.element.dataset.correcting
    this.sideBySide.disabled = this.stage.images.size < 2
    if (entry) {
      const fresh = await getScene(this.id)
      this.scene.corrections = fresh.corrections
      this.showCorrections()
      await this.showEntry(this.scene.corrections.find((one) => one.file === entry.file)!)
      this.status.textContent = `Saved ${entry.file}`
    } else {
      this.showCorrections()
      this.toggle('refined', true)
      this.status.textContent = 'Nothing was saved'
    }
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

  private shortcuts(): Group[] {
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
          { keys: ['ArrowLeft'], text: "towards the patient's right", run: () => this.stage.move(-1, 0, 0) },
          { keys: ['ArrowRight'], text: "towards the patient's left", run: () => this.stage.move(1, 0, 0) },
          { keys: ['ArrowUp'], text: 'to the front', run: () => this.stage.move(0, 1, 0) },
          { keys: ['ArrowDown'], text: 'to the back', run: () => this.stage.move(0, -1, 0) },
          { keys: ['PageUp'], text: 'up', run: () => this.stage.move(0, 0, 1) },
          { keys: ['PageDown'], text: 'down', run: () => this.stage.move(0, 0, -1) }
        ]
      },
      {
        title: 'Correcting',
        shortcuts: [
          { keys: ['e'], text: 'correct labels', run: () => void this.correct() },
          ...this.stage.labels.map((label, i) => ({ keys: [this.penKey(i)], text: `pen: ${label.name}`, run: () => this.correction?.pick(i) })),
          { keys: ['x'], text: 'eraser', run: () => this.correction?.pick(-1) },
          { keys: ['['], text: 'smaller pen', run: () => this.correction?.resize(-1) },
          { keys: [']'], text: 'larger pen', run: () => this.correction?.resize(1) },
          { keys: ['ctrl+z'], text: 'undo', run: () => this.correction?.undo() },
          { keys: ['Escape'], text: 'discard', run: () => this.correction?.stop() }
        ]
      },
      { title: 'Page', shortcuts: [{ keys: ['?'], text: 'these keys', run: () => this.help() }] }
    ]
    return groups
  }
}
