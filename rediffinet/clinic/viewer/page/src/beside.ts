/** Asks the worker. */

import type { Jobs } from './worker'

const worker = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module' })
const asked = new Map<number, { done: (gives: any) => void; failed: (error: Error) => void }>()
let last = 0

worker.onmessage = ({ data: { id, gives, problem } }) => {
  const one = asked.get(id)!
  asked.delete(id)
  if (problem === undefined) one.done(gives)
  else one.failed(new Error(problem))
}
worker.onerror = () => {
  for (const one of asked.values()) one.failed(new Error('The worker of the page cannot run'))
  asked.clear()
}

/** What the worker gives for a job; buffers of `moved` are handed over. */
export function beside<J extends keyof Jobs>(job: J, asks: Jobs[J]['asks'], moved: ArrayBuffer[] = []): Promise<Jobs[J]['gives']> {
  return new Promise((done, failed) => {
    asked.set(++last, { done, failed })
    worker.postMessage({ id: last, job, asks }, moved)
  })
}
