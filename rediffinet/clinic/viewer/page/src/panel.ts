/** What stands beside the images: volumes, warnings, and what ran. */

import { h, millilitres } from './dom'
import type { Report, Scene, Volumes } from './types'

const REGION_NAMES: Record<string, string> = { WT: 'whole tumour', TC: 'tumour core', ET: 'enhancing tumour' }

export function warningsPanel(scene: Scene): HTMLElement {
  const { outputs } = scene.report
  const altered = scene.altered.map((kind) => outputs[kind === 'refined' ? 'segmentation' : kind]).join(', ')
  const said = `${altered}: not as the run wrote it. The volumes and warnings here are those of the map that it wrote.`
  const warnings = [...(altered ? [{ code: 'map-altered', message: said }] : []), ...scene.report.warnings]
  return h(
    'section',
    { 'aria-labelledby': 'warnings-title', class: warnings.length ? 'warnings' : '' },
    h('h2', { id: 'warnings-title' }, warnings.length ? `Warnings (${warnings.length})` : 'Warnings'),
    warnings.length
      ? h('ul', {}, ...warnings.map(({ code, message }) => h('li', {}, h('code', {}, code), ' ', message)))
      : h('p', { class: 'quiet' }, 'None.'),
    scene.notes.length > 0 &&
      h('details', {}, h('summary', {}, 'Not shown'), h('ul', {}, ...scene.notes.map((note) => h('li', {}, note))))
  )
}

export function volumesPanel(report: Report): HTMLElement {
  const { baseline, refined } = report.volumes_ml
  const widths = Object.entries(report.margin?.median_mm ?? {}).filter(([, mm]) => mm !== null)
  return h(
    'section',
    { 'aria-labelledby': 'volumes-title' },
    h('h2', { id: 'volumes-title' }, 'Volumes in ml'),
    volumesTable(baseline && { name: 'Baseline', values: baseline }, { name: 'Refined', values: refined }),
    h(
      'p',
      { class: 'quiet' },
      `Probability above 25 % of a wrong label: ${millilitres(report.uncertainty.uncertain_ml)} ml.`
    ),
    widths.length > 0 &&
      h('p', { class: 'quiet' }, `${(100 * report.margin!.share).toFixed(0)} % of the boundary within: ${widths.map(([region, mm]) => `${region} ±${mm!.toFixed(1)} mm`).join(', ')}.`)
  )
}

interface Column {
  name: string
  values: Volumes
}

export function volumesTable(before: Column | null, after: Column): HTMLElement {
  const columns = before ? [before, after] : [after]
  const heads = [...columns.map((column) => column.name), ...(before ? ['Change'] : [])]
  return h(
    'table',
    {},
    h('thead', {}, h('tr', {}, h('td'), ...heads.map((head) => h('th', { scope: 'col' }, head)))),
    h(
      'tbody',
      {},
      ...Object.keys(after.values).map((region) =>
        h(
          'tr',
          {},
          h('th', { scope: 'row' }, h('abbr', { title: REGION_NAMES[region] ?? region }, region)),
          ...columns.map((column) => h('td', {}, millilitres(column.values[region]))),
          before && h('td', {}, signed(after.values[region] - before.values[region]))
        )
      )
    )
  )
}

function signed(value: number): string {
  const text = Math.abs(value).toFixed(1)
  return text === '0.0' ? '0.0' : `${value > 0 ? '+' : '−'}${text}`
}

export function provenancePanel(report: Report): HTMLElement {
  const { bundle, engine, sampling } = report
  const rows: [string, string][] = [
    ['Model', `${bundle.model}, bundle ${bundle.name}`],
    ['Bundle', bundle.sha256.slice(0, 16)],
    ['Engine', `${engine.used} ${engine.version} on ${engine.device}, ${engine.precision}`],
    ['Sampling', sampling.samples ? `${sampling.samples} samples × ${sampling.steps} steps, ${sampling.windows} windows, seed ${sampling.seed}` : 'none'],
    ['Time', `${report.seconds.total.toFixed(1)} s`],
    ['Program', `rediffinet ${report.rediffinet}`]
  ]
  return h(
    'details',
    { class: 'provenance' },
    h('summary', {}, 'What ran'),
    h('dl', {}, ...rows.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))))
  )
}
