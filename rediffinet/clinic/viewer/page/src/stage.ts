/** The images on the screen: one pane, or one for each contrast, with the same maps over all and one crosshair. */

import type { Niivue, NVImage } from '@niivue/niivue'
import { taken } from './api'
import { beside } from './beside'
import { h } from './dom'
import { bandsOf, bandTable, CHANGES, labelTable, labelsOf, type Label } from './maps'
import type { Place } from './places'
import type { Jobs } from './worker'
import { contrastName, KINDS, type Contrast, type Kind, type Rgb, type Scene } from './types'

export type View = 'planes' | 'axial' | 'coronal' | 'sagittal' | 'volume'
export type Voxel = [number, number, number]

/** NiiVue, which takes long to begin, comes beside the page: the switches are there before it. */
const library = import('@niivue/niivue').then((lib) => {
  const calMinMax = lib.NVImage.prototype.calMinMax
  // it looks at every voxel again whenever a colour changes: the worker has told the range
  lib.NVImage.prototype.calMinMax = function (this: NVImage, ...how) {
    const { cal_min: low, cal_max: high } = this.hdr!
    if (!(high > low)) return calMinMax.apply(this, how)
    this.cal_min = this.robust_min = this.global_min = low
    this.cal_max = this.robust_max = this.global_max = high
    return [low, high, low, high]
  }
  return lib
})
const SLICE = { planes: 'MULTIPLANAR', axial: 'AXIAL', coronal: 'CORONAL', sagittal: 'SAGITTAL', volume: 'RENDER' } as const
/** Maps of labels, the lowest first, and the colour of their outlines where another of them lies above; that has the labels' colours. */
const OUTLINES = { reference: [255, 255, 255], baseline: [255, 105, 225], refined: [130, 255, 90], corrected: [130, 255, 90] } as const
/** How doubt is coloured: from nothing at 5 % to yellow at 50 % and above. */
export const DOUBT = { R: [0, 110, 235, 255], G: [0, 30, 100, 240], B: [0, 130, 50, 110], A: [0, 150, 210, 255], I: [0, 70, 160, 255] }
const DOUBT_RANGE = [0.05, 0.5]

/** Where the crosshair is: in mm, and as a voxel of the displayed order, which `NVImage.getValue` takes. */
export interface Location {
  mm: number[]
  voxel: Voxel
}

function isSoftware(gl: WebGL2RenderingContext): boolean {
  const names = gl.getExtension('WEBGL_debug_renderer_info')
  return names !== null && /swiftshader|llvmpipe|software|basic render/i.test(String(gl.getParameter(names.UNMASKED_RENDERER_WEBGL)))
}

/** World coordinates of a voxel of the stored order. */
function storedToMm(image: NVImage, [x, y, z]: Voxel): [number, number, number] {
  const rows = image.hdr!.affine
  const along = (row: number[]) => row[0] * x + row[1] * y + row[2] * z + row[3]
  return [along(rows[0]), along(rows[1]), along(rows[2])]
}

/** Lets the browser draw the page and answer what was pressed, before the next long step. A page in the background is not drawn. */
function breath(): Promise<void> {
  return new Promise((done) => {
    requestAnimationFrame(() => setTimeout(done))
    setTimeout(done, 200)
  })
}

interface Pane {
  nv: Niivue
  box: HTMLElement
  canvas: HTMLCanvasElement
  title: HTMLElement
  contrast: Contrast
}

export class Stage {
  readonly element = h('div', { class: 'stage' })
  readonly images = new Map<Contrast, NVImage>()
  readonly maps = new Map<Kind, NVImage>()
  /** Where to look in a map, the largest or most doubtful first. */
  readonly places = new Map<Kind, Place[]>()
  readonly labels: Label[]
  readonly bands: Label[]
  readonly shown = new Set<Kind>(['refined'])
  readonly opacity = new Map<Kind, number>()
  readonly contrasts: Contrast[]
  contrast: Contrast
  view: View = 'planes'
  /** Of the labels that are drawn by hand. */
  penOpacity = 0.6
  sideBySide = false
  outlines = false
  /** Whether the processor draws, for want of a graphics card: 3-D takes seconds then. */
  software = false
  onLocation: (location: Location) => void = () => {}
  onDrawn: (action: string) => void = () => {}
  private readonly panes: Pane[] = []
  private adding = false
  private lib!: Awaited<typeof library>

  constructor(
    private readonly scene: Scene,
    private readonly base: string
  ) {
    this.labels = labelsOf(scene.report)
    this.bands = bandsOf(scene.report)
    this.contrasts = scene.images.map((image) => image.contrast)
    this.contrast = this.contrasts.includes('t1c') ? 't1c' : this.contrasts[0]
    for (const kind of KINDS) this.opacity.set(kind, { uncertainty: 0.8, changes: 0.9, margin: 0.7 }[kind as string] ?? 0.5)
  }

  /** Loads what is shown first, shows it, and then the rest, see `loadRest`. */
  async load(loaded: (what: Contrast | Kind) => void): Promise<unknown> {
    const first = this.loadImage(this.contrast)
    first.catch(() => {}) // heard of below
    this.lib = await library
    await breath()
    await this.addPane(this.contrast, first)
    loaded(this.contrast)
    await this.loadMap('refined', this.scene.maps.refined!)
    await this.drawn()
    this.draw()
    loaded('refined')
    return await this.loadRest(loaded)
  }

  /** Loads what is not there yet; `loaded` is called after each. Returns what went wrong first: the others are there all the same. */
  async loadRest(loaded: (what: Contrast | Kind) => void): Promise<unknown> {
    let problem: unknown = null
    const attempt = async (what: Contrast | Kind, load: () => Promise<void>) => {
      if (this.images.has(what) || this.maps.has(what as Kind)) return
      try {
        await load()
        loaded(what)
      } catch (error) {
        problem ??= error
      }
    }
    const { maps, images } = this.scene
    for (const kind of ['baseline', 'reference'] as const) if (maps[kind]) await attempt(kind, () => this.loadMap(kind, maps[kind]!))
    if (this.maps.has('baseline')) await attempt('changes', () => this.compare())
    for (const { contrast } of images) await attempt(contrast, () => this.loadImage(contrast))
    for (const kind of ['margin', 'uncertainty'] as const) if (maps[kind]) await attempt(kind, () => this.loadMap(kind, maps[kind]!))
    await this.drawn()
    if (this.sideBySide) this.draw() // of what came since
    return problem
  }

  private async loadImage(contrast: Contrast): Promise<void> {
    const { url } = this.scene.images.find((image) => image.contrast === contrast)!
    this.images.set(contrast, (await this.fetch(url, contrast, 'image')).image)
  }

  /** Waits until what was drawn is on the screen: the next upload would hold the page up that long. */
  private async drawn(): Promise<void> {
    const { gl } = this.first
    const fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0)!
    gl.flush()
    while (!gl.isContextLost() && gl.getSyncParameter(fence, gl.SYNC_STATUS) !== gl.SIGNALED) {
      await new Promise((done) => setTimeout(done, 20))
    }
    gl.deleteSync(fence)
  }

  /** Fetches a map and puts it over the images; a label map in the report's labels and colours. */
  async loadMap(kind: Kind, url: string): Promise<void> {
    const { image, labels, places } = await this.fetch(url, kind, kind === 'uncertainty' ? 'doubt' : kind === 'refined' ? 'lesions' : 'labels')
    if (labels) {
      image.img = labels
      image.hdr!.datatypeCode = 2
      image.hdr!.numBitsPerVoxel = 8
      image.hdr!.scl_slope = 1
      image.hdr!.scl_inter = 0
      image.setColormapLabel(kind === 'margin' ? bandTable(this.bands) : labelTable(this.labels))
    } else {
      image.colormap = 'doubt'
      ;[image.cal_min, image.cal_max] = DOUBT_RANGE
    }
    if (places) this.places.set(kind, places)
    this.maps.set(kind, image)
  }

  /** Maps whose outlines are all of one colour, for one that has the labels' lies above them. */
  get plain(): { kind: Kind; rgb: Rgb }[] {
    const kinds = (Object.keys(OUTLINES) as (keyof typeof OUTLINES)[]).filter((kind) => this.shown.has(kind) && this.maps.has(kind))
    return this.outlines ? kinds.slice(0, -1).map((kind) => ({ kind, rgb: [...OUTLINES[kind]] as Rgb })) : []
  }

  /** The map as bytes of labels in the stored order. */
  labelsIn(kind: Kind): Uint8Array<ArrayBuffer> | undefined {
    return this.maps.get(kind)?.img as Uint8Array<ArrayBuffer> | undefined
  }

  get shape(): Voxel {
    const dims = this.maps.get('refined')!.hdr!.dims
    return [dims[1], dims[2], dims[3]]
  }

  get voxelMl(): number {
    const [, x, y, z] = this.maps.get('refined')!.hdr!.pixDims
    return Math.abs(x * y * z) / 1000
  }

  /** Gives the graphics memory back. */
  close(): void {
    for (const { nv } of this.panes) {
      nv.cleanup()
      nv.gl.getExtension('WEBGL_lose_context')?.loseContext()
    }
  }

  /** The pane that is drawn on. */
  get first(): Niivue {
    return this.panes[0].nv
  }

  /** Brings the panes in line with what was chosen. */
  draw(): void {
    const contrasts = this.sideBySide ? this.contrasts.filter((contrast) => this.images.has(contrast)) : [this.contrast]
    this.panes.forEach((pane, i) => {
      pane.box.hidden = i >= contrasts.length
      if (pane.box.hidden) return
      pane.contrast = contrasts[i]
      pane.title.textContent = contrastName(pane.contrast)
      this.fill(pane)
    })
    this.element.dataset.panes = String(Math.min(contrasts.length, this.panes.length))
    if (this.panes.length) this.first.createOnLocationChange()
    if (contrasts.length > this.panes.length && this.panes.length && !this.adding) {
      this.adding = true
      void this.addPane(contrasts[this.panes.length]).finally(() => {
        this.adding = false
        this.draw()
      })
    }
  }

  private fill({ nv, contrast, canvas }: Pane): void {
    const back = this.images.get(contrast)
    if (!back) return
    const kinds = KINDS.filter((kind) => this.shown.has(kind) && this.maps.has(kind))
    const over = kinds.map((kind) => this.maps.get(kind)!)
    const plain = new Map(this.plain.map(({ kind, rgb }) => [kind, rgb]))
    over.forEach((map, i) => {
      const rgb = plain.get(kinds[i])
      if (kinds[i] in OUTLINES) map.setColormapLabel(labelTable(rgb ? this.labels.map((label) => ({ ...label, rgb })) : this.labels))
    })
    const before = nv.back
    const { MULTIPLANAR_TYPE, SHOW_RENDER, SLICE_TYPE } = this.lib
    nv.volumes = [back, ...over]
    nv.back = back
    nv.overlays = over
    nv.opts.multiplanarShowRender = this.sideBySide || this.software ? SHOW_RENDER.NEVER : SHOW_RENDER.ALWAYS
    nv.opts.multiplanarLayout = nv.opts.multiplanarShowRender === SHOW_RENDER.ALWAYS ? MULTIPLANAR_TYPE.GRID : MULTIPLANAR_TYPE.AUTO
    nv.opts.sliceType = SLICE_TYPE[SLICE[this.view]]
    // of the field of view: a pixel at least, in small panes as well
    const crosshair = this.view === 'planes' || this.sideBySide ? 0.4 : 0.2
    if (nv.opts.crosshairWidth !== crosshair) {
      nv.opts.crosshairWidth = crosshair
      if (nv.crosshairs3D) nv.crosshairs3D.mm = [NaN, NaN, NaN] // drawn anew, as after a move
    }
    if (over.length === 0) nv.overlayTexture = nv.rgbaTex(nv.overlayTexture, nv.gl.TEXTURE2, [2, 2, 2, 2], true)
    const lay = () =>
      over.forEach((map, i) => {
        const opacity = this.opacity.get(kinds[i])!
        const outlined = this.outlines && kinds[i] !== 'uncertainty'
        nv.opts.atlasOutline = outlined ? Math.min(1, 2 * opacity) : 0 // whole at the middle, or outlines that coincide mix their colours
        map.opacity = outlined ? 0.01 : opacity // NiiVue leaves maps of no opacity out, with their outlines
        nv.refreshLayers(map, i + 1)
      })
    if (before !== back) {
      over.forEach((map, i) => (map.opacity = this.opacity.get(kinds[i])!))
      nv.opts.atlasOutline = 0
      nv.updateGLVolume()
    }
    if (before === back || this.outlines) {
      // the image itself is on the card already, and its gradients, which take the longest
      lay()
      nv.drawScene()
    }
    canvas.setAttribute('aria-label', `${contrastName(contrast)}, ${this.view}, with ${[...this.shown].join(', ') || 'no map'}`)
  }

  /** What became different between baseline and refined. */
  private async compare(): Promise<void> {
    const refined = this.maps.get('refined')!
    const asks = { before: this.labelsIn('baseline')!, after: this.labelsIn('refined')!, shape: this.shape }
    const { labels, places } = await beside('compare', asks)
    const changes = refined.clone()
    changes.name = 'changes'
    changes.img = labels
    changes.setColormapLabel(labelTable(CHANGES))
    this.maps.set('changes', changes)
    this.places.set('changes', places)
  }

  /** Moves every crosshair to a voxel of the stored order. */
  goTo(voxel: Voxel): void {
    const map = this.maps.get('refined')!
    const mm = storedToMm(map, voxel)
    for (const { nv } of this.panes) nv.scene.crosshairPos = nv.mm2frac(mm)
    for (const { nv, box } of this.panes) if (!box.hidden) nv.drawScene()
    this.first.createOnLocationChange()
  }

  /** Moves along the axes to the right, to the front, and up, in voxels. */
  move(right: number, front: number, up: number): void {
    this.first.moveCrosshairInVox(right, front, up)
  }

  private async addPane(contrast: Contrast, image?: Promise<void>): Promise<void> {
    const canvas = h('canvas', { role: 'img', tabindex: 0 })
    const title = h('span', { class: 'pane-title' }, contrastName(contrast))
    const holder = h('div', { class: 'pane-canvas' }, canvas)
    const box = h('div', { class: 'pane' }, title, holder)
    this.element.append(box)
    const nv = new this.lib.Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [0.4, 0.9, 0.5, 0.8],
      crosshairWidth: 0.4,
      crosshairWidthUnit: 'percent',
      crosshairGap: 6,
      show3Dcrosshair: true,
      isRadiologicalConvention: true,
      isCornerOrientationText: false,
      multiplanarShowRender: this.lib.SHOW_RENDER.ALWAYS,
      isOrientCube: false,
      dragAndDropEnabled: false,
      clipPlaneHotKey: '',
      cycleClipPlaneHotKey: '',
      viewModeHotKey: '',
      maxDrawUndoBitmaps: 64,
      loadingText: '',
      logLevel: 'error',
      isNearestInterpolation: false,
      renderOverlayBlend: 1
    })
    await nv.attachToCanvas(canvas)
    await image
    await breath()
    this.software = isSoftware(nv.gl)
    nv.addColormap('doubt', DOUBT)
    const pane = { nv, box, canvas, title, contrast }
    const first = this.panes[0]
    this.panes.push(pane)
    nv.onLocationChange = (message) => this.located(pane, message as { mm: number[] })
    nv.onDrawingChanged = (action) => this.onDrawn(action)
    this.fill(pane)
    if (first) {
      nv.scene.crosshairPos = nv.mm2frac(first.nv.frac2mm(first.nv.scene.crosshairPos) as never)
      nv.drawScene()
    }
  }

  private located(from: Pane, { mm }: { mm: number[] }): void {
    for (const { nv, box } of this.panes) {
      if (nv === from.nv || box.hidden) continue
      nv.scene.crosshairPos = nv.mm2frac(from.nv.frac2mm(from.nv.scene.crosshairPos) as never)
      nv.drawScene()
    }
    const map = this.maps.get('refined')
    if (map) this.onLocation({ mm, voxel: Array.from(map.mm2vox(mm)).slice(0, 3) as Voxel })
  }

  private async fetch(url: string, name: string, as: Jobs['read']['asks']['as']) {
    const response = await taken(this.base + url)
    const packed = await response.arrayBuffer()
    const enhancing = name === 'margin' ? undefined : this.scene.report.labels.enhancing // whose 4 is a bit
    const { file, range, ...found } = await beside('read', { file: packed, as, enhancing }, [packed])
    const [cal_min, cal_max] = range
    const { NVImage } = await library
    const image = await NVImage.loadFromUrl({ url: file, buffer: file, name: `${name}.nii`, colormap: 'gray', cal_min, cal_max })
    return { image, ...found }
  }
}
