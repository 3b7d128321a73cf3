/** In place of the codecs of Zarr, which this page does not read. */

export default {
  fromConfig(): never {
    throw new Error('Zarr images are not read here.')
  }
}
