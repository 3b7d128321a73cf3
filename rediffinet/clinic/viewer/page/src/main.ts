/** Begins: the only case there is (`rediff view`), or the cases of a service, each at `#/ID`. */

import './style.css'
import { ask } from './api'
import { h, message } from './dom'
import { showQueue, type Listed } from './queue'
import { showCase, type Shown } from './viewer'

const NOTHING: Shown = { mayLeave: () => true, close: () => {} }

const page = document.getElementById('page')!
let shown = NOTHING
/** The address of what is shown. */
let here = ''
/** Whether there is one case, which the server was started with: an address names nothing then. */
let alone = false

function leave(): void {
  shown.close()
  shown = NOTHING
}

function fail(error: unknown, back: (() => void) | null): void {
  leave()
  page.replaceChildren(
    h(
      'main',
      { class: 'failed' },
      h('h1', {}, 'This cannot be shown'),
      h('p', { role: 'alert' }, message(error)),
      h('button', { type: 'button', onclick: again }, 'Load the page again'),
      ' ',
      back && h('button', { type: 'button', onclick: back }, 'All cases')
    )
  )
}

/** As at the beginning: the server may have something else by now. */
function again(): void {
  here = ''
  alone = false
  void route()
}

function toList(): void {
  if (!shown.mayLeave()) return
  leave()
  location.hash = ''
}

function open(id: string, back: (() => void) | null): void {
  leave()
  shown = showCase(page, id, back, (error) => fail(error, back))
}

/** The case that the address names, empty for none. */
function named(): string {
  const text = location.hash.replace(/^#\/?/, '')
  try {
    return decodeURIComponent(text)
  } catch {
    throw new Error(`The address names no case: ${text}`)
  }
}

/** Shows what the address names: a case, or else what the server has. Where that would lose something, and it shall not, the address goes back. */
async function route(): Promise<void> {
  if (alone || location.href === here) return
  if (!shown.mayLeave()) return history.pushState(null, '', here)
  const first = here === ''
  const wanted = (here = location.href)
  try {
    const listed = first || !named() ? await ask<Listed>('v1/cases') : null
    if (location.href !== wanted) return // and that is being shown
    alone = listed !== null && !listed.accepts
    if (alone) return open(listed!.cases[0].id, null)
    const id = named()
    if (id) return open(id, toList)
    leave()
    shown = { ...NOTHING, close: showQueue(page, (chosen) => (location.hash = `/${encodeURIComponent(chosen)}`)) }
  } catch (error) {
    fail(error, location.hash ? toList : null)
  }
}

/** A browser would leave the page for a file that is dropped beside the zone. */
function stay(event: DragEvent): void {
  if (!event.dataTransfer?.types.includes('Files')) return
  event.preventDefault()
  if (!(event.target as Element).closest('.drop')) event.dataTransfer.dropEffect = 'none'
}

for (const name of ['dragover', 'drop'] as const) document.addEventListener(name, stay)
window.addEventListener('hashchange', () => void route())
void route()
