/** The keyboard: one table, which the help shows and the page follows. */

import { h } from './dom'

export interface Shortcut {
  keys: string[]
  /** What it does, in the help. */
  text: string
  run: () => void
}

export interface Group {
  title: string
  shortcuts: Shortcut[]
}

const SHOWN: Record<string, string> = {
  ArrowLeft: '←', ArrowRight: '→', ArrowUp: '↑', ArrowDown: '↓', PageUp: 'Page ↑', PageDown: 'Page ↓', 'ctrl+z': 'Ctrl Z', Escape: 'Esc'
}

/** In the open help: what the browser itself does with a key, scroll it or close it. */
const OF_DIALOG = /^(Escape|Arrow|Page)/

/** Follows keys but in fields where text or a choice is typed; those pressed before there are shortcuts are kept. */
export class Keyboard {
  private groups: (() => Group[]) | null = null
  private readonly early: string[] = []

  constructor() {
    document.addEventListener('keydown', this.pressed, true)
    document.addEventListener('keyup', this.released, true)
  }

  /** Follows these shortcuts from now on; first the keys that were pressed before. */
  follow(groups: () => Group[]): void {
    this.groups = groups
    for (const key of this.early.splice(0)) this.shortcut(key)?.run()
  }

  stop(): void {
    document.removeEventListener('keydown', this.pressed, true)
    document.removeEventListener('keyup', this.released, true)
  }

  private shortcut(key: string): Shortcut | undefined {
    return this.groups?.().flatMap((group) => group.shortcuts).find(({ keys }) => keys.includes(key))
  }

  private readonly pressed = (event: KeyboardEvent) => {
    const target = event.target as HTMLElement
    const types = target.closest('input:not([type=checkbox]):not([type=radio]):not([type=range]), textarea, select')
    const chooses = target.closest('input[type=radio], input[type=range]') && event.key.startsWith('Arrow')
    const sign = event.key.length === 1 && !/[a-z0-9]/i.test(event.key)
    const third = sign && event.altKey // a sign that a keyboard has with AltGr (Ctrl and Alt in one) or Option
    if (types || chooses || (event.altKey && !third)) return
    // whether the help is open, not whether the focus is in it: there it stays for a while after the help was closed
    const dialog = document.querySelector<HTMLDialogElement>('dialog[open]')
    if (dialog && OF_DIALOG.test(event.key)) return
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key // with Caps Lock too
    const key = (event.ctrlKey || event.metaKey) && !third ? `ctrl+${name}` : name
    if (!this.groups) this.early.push(key)
    const shortcut = this.shortcut(key)
    if (shortcut) {
      event.preventDefault()
      event.stopPropagation()
      dialog?.close()
      if (!dialog || key !== '?') shortcut.run()
    }
    // NiiVue has keys of its own on its canvas; there is one table of keys here
    else if (target instanceof HTMLCanvasElement && event.key !== 'Tab') event.stopPropagation()
  }

  private readonly released = (event: KeyboardEvent) => {
    if (event.target instanceof HTMLCanvasElement) event.stopPropagation()
  }
}

/** A window with the table of keys. */
export function help(groups: Group[]): HTMLDialogElement {
  const dialog = h(
    'dialog',
    { class: 'help', 'aria-labelledby': 'help-title' },
    h('h2', { id: 'help-title' }, 'Keys'),
    h(
      'div',
      { class: 'help-groups' },
      ...groups.map((group) =>
        h(
          'section',
          {},
          h('h3', {}, group.title),
          h(
            'dl',
            {},
            ...group.shortcuts.map(({ keys, text }) =>
              h('div', {}, h('dt', {}, ...keys.map((key) => h('kbd', {}, SHOWN[key] ?? key))), h('dd', {}, text))
            )
          )
        )
      )
    ),
    h('p', {}, 'Drag with the right button: brightness and contrast. Wheel: slices. Double click: brightness as at the start.'),
    h('form', { method: 'dialog' }, h('button', {}, 'Close'))
  )
  dialog.addEventListener('close', () => dialog.remove())
  return dialog
}
