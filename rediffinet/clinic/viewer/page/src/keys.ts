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

/** Follows the shortcuts, but in fields where text or a choice is typed; returns how to stop. */
export function listen(groups: () => Group[]): () => void {
  const pressed = (event: KeyboardEvent) => {
    const target = event.target as HTMLElement
    const types = target.closest('input:not([type=checkbox]):not([type=radio]):not([type=range]), textarea, select, dialog')
    const chooses = target.closest('input[type=radio], input[type=range]') && event.key.startsWith('Arrow')
    if (types || chooses || event.altKey || event.metaKey) return
    const key = event.ctrlKey ? `ctrl+${event.key.toLowerCase()}` : event.key
    for (const { keys, run } of groups().flatMap((group) => group.shortcuts)) {
      if (keys.includes(key)) {
        event.preventDefault()
        event.stopPropagation()
        run()
        return
      }
    }
    // NiiVue has keys of its own on its canvas; there is one table of keys here
    if (target instanceof HTMLCanvasElement && event.key !== 'Tab') event.stopPropagation()
  }
  const released = (event: KeyboardEvent) => {
    if (event.target instanceof HTMLCanvasElement) event.stopPropagation()
  }
  document.addEventListener('keydown', pressed, true)
  document.addEventListener('keyup', released, true)
  return () => {
    document.removeEventListener('keydown', pressed, true)
    document.removeEventListener('keyup', released, true)
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
