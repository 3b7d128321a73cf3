/** Begins: the only case there is (`rediff view`), or the cases of a service, each at `#/ID`. */

import './style.css'
import { ask } from './api'
import { h, message } from './dom'
import { showQueue, type Listed } from './queue'
import { showCase } from './viewer'

const page = document.getElementById('page')!
let close: () => void = () => {}

function fail(error: unknown, back: (() => void) | null): void {
  close()
  close = () => {}
  page.replaceChildren(
    h(
      'main',
      { class: 'failed' },
      h('h1', {}, 'This cannot be shown'),
      h('p', { role: 'alert' }, message(error)),
      back && h('button', { type: 'button', onclick: back }, 'All cases')
    )
  )
}

function toList(): void {
  location.hash = ''
}

function open(id: string, back: (() => void) | null): void {
  close()
  close = showCase(page, id, back, (error) => fail(error, back))
}

/** Shows what the address names: a case at once, or else what the server has. */
async function route(): Promise<void> {
  const id = decodeURIComponent(location.hash.replace(/^#\/?/, ''))
  if (id) return open(id, toList)
  try {
    const { cases, accepts } = await ask<Listed>('v1/cases')
    if (!accepts) return open(cases[0].id, null)
    close()
    close = showQueue(page, (chosen) => (location.hash = `/${encodeURIComponent(chosen)}`))
  } catch (error) {
    fail(error, null)
  }
}

window.addEventListener('hashchange', () => void route())
void route()
