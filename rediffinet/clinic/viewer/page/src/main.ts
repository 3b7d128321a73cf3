/** Begins: the case of the address, the only one there is, or the list. */

import './style.css'
import { ask } from './api'
import { h } from './dom'
import { showCase } from './viewer'

interface Listed {
  cases: { id: string; case: string; state: string }[]
  accepts: boolean
}

async function begin(): Promise<void> {
  const page = document.getElementById('page')!
  try {
    const { cases } = await ask<Listed>('v1/cases')
    await showCase(page, cases[0].id, null)
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error)
    page.replaceChildren(h('main', { class: 'failed' }, h('h1', {}, 'This case cannot be shown'), h('p', { role: 'alert' }, text)))
    throw error
  }
}

void begin()
