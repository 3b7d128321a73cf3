/** Small helpers to build the page. */

type Child = Node | string | null | undefined | false
type Attributes = Record<string, string | number | boolean | ((event: any) => void) | undefined>

/** An element: `on…` attributes are listeners, `true` is an empty attribute, `false` and undefined none. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue
    if (typeof value === 'function') element.addEventListener(name.slice(2), value)
    else element.setAttribute(name, value === true ? '' : String(value))
  }
  for (const child of children) {
    if (child !== null && child !== undefined && child !== false) element.append(child)
  }
  return element
}

export function millilitres(value: number): string {
  return value.toFixed(1)
}

/** A moment in the words and the time zone of the browser, to the second. */
export function moment(iso: string): string {
  const parts = { day: 'numeric', month: 'short', hour: 'numeric', minute: '2-digit', second: '2-digit' } as const
  return new Date(iso).toLocaleString(undefined, parts)
}

/** A coloured square of a legend. */
export function swatch(rgb: readonly number[]): HTMLElement {
  return h('span', { class: 'swatch', style: `background: rgb(${rgb.join(' ')})`, 'aria-hidden': 'true' })
}

export function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
