/** Pen and eraser: a copy of a label map is changed on the first pane and sent as a new one. */

import { sendCorrection } from './api'
import { h, message, swatch } from './dom'
import { labelTable, toDisplayed, toStored } from './maps'
import type { Stage } from './stage'
import type { CorrectionEntry, Kind } from './types'

const WHO = 'rediff.who'

export class Correction {
  readonly element: HTMLElement
  /** Strokes that are not saved. */
  private strokes = 0
  /** How many of them `undo` can take back. */
  private kept = 0
  private sending = false
  private left = false
  private readonly undoButton: HTMLButtonElement
  private readonly saveButton = h('button', { type: 'submit', class: 'primary' }, 'Save as a new map')
  private readonly discardButton = h('button', { type: 'button', onclick: () => this.stop() }, 'Discard')
  private readonly said = h('p', { role: 'status', class: 'quiet' })
  private readonly opacity: HTMLInputElement
  private readonly who: HTMLInputElement
  private readonly note: HTMLTextAreaElement
  private readonly size: HTMLInputElement
  private readonly tools: HTMLInputElement[] = []

  constructor(
    private readonly id: string,
    private readonly stage: Stage,
    private readonly from: { kind: Kind; file: string; sha256: string },
    private readonly ended: (saved: CorrectionEntry | null) => void
  ) {
    this.who = h('input', { name: 'who', required: true, maxlength: 100, autocomplete: 'name', value: remembered() })
    this.note = h('textarea', { name: 'note', rows: 2, maxlength: 2000 })
    this.size = h('input', { type: 'range', min: 1, max: 15, value: 3, step: 1, oninput: () => this.choose() })
    this.undoButton = h('button', { type: 'button', disabled: true, onclick: () => this.undo() }, 'Undo')
    const setOpacity = () => stage.first.setDrawOpacity((stage.penOpacity = Number(this.opacity.value)))
    this.opacity = h('input', { type: 'range', min: 0, max: 1, step: 0.05, value: stage.penOpacity, oninput: setOpacity })
    const filled = h('input', { type: 'checkbox', onchange: () => this.choose() })
    const tool = (name: string, value: number, mark: HTMLElement | null, key: string) => {
      const input = h('input', { type: 'radio', name: 'tool', value, onchange: () => this.choose() })
      this.tools.push(input)
      return h('label', { class: 'tool' }, input, mark, name, ' ', h('kbd', { 'aria-hidden': 'true' }, key))
    }
    this.element = h(
      'form',
      { class: 'correct', onsubmit: (event: Event) => void this.save(event) },
      h('p', { class: 'quiet' }, `Begins with ${this.from.file}. Draw in a plane; no file is overwritten.`),
      h(
        'fieldset',
        {},
        h('legend', {}, 'Pen'),
        ...stage.labels.map((label, i) => tool(label.name, label.value, swatch(label.rgb), String(stage.contrasts.length + 1 + i))),
        tool('eraser', 0, null, 'x')
      ),
      h('label', { class: 'row' }, 'Size in voxels', this.size),
      h('label', { class: 'row' }, 'Opacity of the labels', this.opacity),
      h('label', { class: 'row' }, filled, 'Fill what a stroke encloses'),
      h('div', { class: 'buttons' }, this.undoButton),
      h('label', { class: 'field' }, 'Your name', this.who),
      h('label', { class: 'field' }, 'Note (may be empty)', this.note),
      h('div', { class: 'buttons' }, this.saveButton, this.discardButton),
      this.said
    )
    this.filled = () => filled.checked
    this.begin()
  }

  private readonly filled: () => boolean

  private get pen(): number {
    return Number(this.tools.find((tool) => tool.checked)?.value ?? 0)
  }

  private begin(): void {
    const nv = this.stage.first
    const map = this.stage.maps.get(this.from.kind)!
    nv.setDrawColormap(labelTable(this.stage.labels) as unknown as string)
    nv.createEmptyDrawing()
    nv.drawBitmap!.set(toDisplayed(map, map.img as Uint8Array))
    nv.drawClearAllUndoBitmaps()
    nv.drawAddUndoBitmap()
    nv.setDrawOpacity(this.stage.penOpacity)
    nv.opts.drawingEnabled = true
    this.stage.onDrawn = (action) => {
      if (action !== 'draw') return
      this.strokes += 1
      this.kept = Math.min(this.kept + 1, nv.opts.maxDrawUndoBitmaps - 1) // one of the ring is the map as it is
      this.undoButton.disabled = false
    }
    this.tools[0].checked = true
    this.choose()
    nv.refreshDrawing(true)
  }

  /** Takes the tool and its size over. */
  choose(): void {
    const nv = this.stage.first
    nv.opts.penSize = Number(this.size.value)
    nv.setPenValue(this.pen, this.filled() && this.pen > 0)
  }

  pick(index: number): void {
    const tool = index < 0 ? this.tools[this.tools.length - 1] : this.tools[index]
    if (tool) {
      tool.checked = true
      this.choose()
    }
  }

  resize(by: number): void {
    this.size.value = String(Number(this.size.value) + by)
    this.choose()
  }

  undo(): void {
    if (this.sending) return
    if (this.kept > 0) {
      this.stage.first.drawUndo()
      this.strokes -= 1
      this.kept -= 1
    }
    this.undoButton.disabled = this.kept === 0
    if (this.kept === 0 && this.strokes > 0) this.said.textContent = 'No stroke before these is kept to be taken back. Discard takes all back.'
  }

  /** Ends without saving; asks when there are strokes. */
  stop(): void {
    if (this.sending || !this.mayEnd()) return
    this.close()
    this.ended(null)
  }

  /** Whether something would be lost. */
  get unsaved(): boolean {
    return this.sending || this.strokes > 0
  }

  /** Asks when something would be lost. */
  mayEnd(): boolean {
    return !this.unsaved || window.confirm(this.sending ? 'The new map is being saved. Leave all the same?' : 'Discard what was drawn?')
  }

  /** The page is left: what is being saved has nothing to show any more. */
  leave(): void {
    this.left = true
  }

  /** While a map is sent it is not changed, and it is sent once. */
  private setSending(on: boolean): void {
    this.sending = on
    this.stage.first.opts.drawingEnabled = !on
    this.saveButton.disabled = this.discardButton.disabled = on
    this.undoButton.disabled = on || this.kept === 0
  }

  private close(): void {
    const nv = this.stage.first
    this.stage.onDrawn = () => {}
    nv.setDrawingEnabled(false)
    nv.closeDrawing()
  }

  private async save(event: Event): Promise<void> {
    event.preventDefault()
    if (this.sending) return
    const drawn = this.stage.first.drawBitmap!
    const labels = toStored(this.stage.maps.get(this.from.kind)!, drawn)
    this.said.textContent = 'Saving …'
    this.setSending(true)
    try {
      const about = { from: this.from.file, sha256: this.from.sha256, who: this.who.value, note: this.note.value }
      const entry = await sendCorrection(this.id, labels, about)
      remember(this.who.value)
      if (this.left) return
      this.close()
      this.ended(entry)
    } catch (error) {
      if (this.left) return
      this.setSending(false)
      this.said.replaceChildren(`Not saved: ${message(error)} `, this.asFile(drawn))
    }
  }

  /** A way to keep what was drawn where it cannot be saved. */
  private asFile(drawn: Uint8Array): HTMLElement {
    const content = this.stage.maps.get(this.from.kind)!.toUint8Array(drawn) as Uint8Array<ArrayBuffer>
    const name = `${this.from.file.replace(/\.nii(\.gz)?$/, '')}-drawn.nii`
    return h('a', { href: URL.createObjectURL(new Blob([content])), download: name }, 'Download what was drawn')
  }

  /** For who came here by the keyboard. */
  focus(): void {
    this.tools[0].focus({ preventScroll: true })
  }
}

function remembered(): string {
  try {
    return localStorage.getItem(WHO) ?? ''
  } catch {
    return ''
  }
}

function remember(name: string): void {
  try {
    localStorage.setItem(WHO, name)
  } catch {
    // a browser that keeps nothing: the name is typed again
  }
}
