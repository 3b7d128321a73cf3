import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vite'

/** Text of a package's licence: its own file, or the one in `licences/` for a package that ships none. */
function licenceOf(folder, name) {
  const own = readdirSync(folder).find((file) => /^licen[cs]e/i.test(file))
  const kept = `licences/${name.replace('/', '+')}.txt`
  if (!own && !existsSync(kept)) throw new Error(`${name} has no licence file: put one into ${kept}`)
  return readFileSync(own ? `${folder}/${own}` : kept, 'utf8')
}

/** One hash over the sources, by which a test sees that `dist/` was built from them. */
function sourcesHash() {
  const hash = createHash('sha256')
  const files = ['index.html', 'package-lock.json', 'vite.config.js', ...readdirSync('src').sort().map((name) => `src/${name}`)]
  for (const file of files) hash.update(`${file}\0`).update(readFileSync(file)).update('\0')
  return hash.digest('hex')
}

/** Writes LICENSES.txt: the licence of every package of which something is in the page. */
const licences = {
  name: 'licences-and-hash',
  generateBundle(_options, bundle) {
    const folders = new Map()
    for (const chunk of Object.values(bundle)) {
      for (const id of Object.keys(chunk.modules ?? {})) {
        const found = /^.*\/node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(id)
        if (found) folders.set(found[1], found[0])
      }
    }
    // packages that NiiVue's own build has taken in
    for (const name of ['@lukeed/uuid', '@ungap/structured-clone', 'array-equal', 'fflate', 'gl-matrix', 'nifti-reader-js', 'zarrita']) {
      if (existsSync(`node_modules/${name}`)) folders.set(name, `node_modules/${name}`)
    }
    const texts = [...folders].sort().map(([name, folder]) => {
      const { version, license } = JSON.parse(readFileSync(`${folder}/package.json`, 'utf8'))
      return `${name} ${version} (${license})\n\n${licenceOf(folder, name).trim()}\n`
    })
    this.emitFile({ type: 'asset', fileName: 'sources.sha256', source: `${sourcesHash()}\n` })
    this.emitFile({ type: 'asset', fileName: 'LICENSES.txt', source: texts.join(`\n${'-'.repeat(80)}\n\n`) })
  }
}

/** Tells the browser of the chunks at once: they come while the page's own script is read. */
const preload = {
  name: 'preload',
  transformIndexHtml: (_html, { bundle }) =>
    Object.values(bundle ?? {})
      .filter((chunk) => ['niivue', 'load'].includes(chunk.name))
      .map((chunk) => ({ tag: 'link', attrs: { rel: 'modulepreload', crossorigin: true, href: `./${chunk.fileName}` }, injectTo: 'head' }))
}

export default defineConfig({
  base: './',
  // codecs of Zarr, which NiiVue loads when it meets such a file: 1.4 MB that no case has a use for
  resolve: { alias: [{ find: /^numcodecs\/.*/, replacement: fileURLToPath(new URL('src/no-zarr.ts', import.meta.url)) }] },
  build: {
    outDir: '../dist',
    emptyOutDir: true,
    target: 'es2022',
    modulePreload: false,
    chunkSizeWarningLimit: 4000,
    rollupOptions: {
      output: {
        entryFileNames: 'assets/[name].js',
        chunkFileNames: 'assets/[name].js',
        assetFileNames: 'assets/[name][extname]',
        // Vite's own loader apart, or the page would wait for NiiVue to have it
        manualChunks: (id) => (id.includes('vite/preload-helper') ? 'load' : id.includes('/node_modules/') ? 'niivue' : undefined)
      }
    }
  },
  worker: { format: 'es', rollupOptions: { output: { entryFileNames: 'assets/[name].js' } } },
  plugins: [licences, preload]
})
