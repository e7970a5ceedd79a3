#!/usr/bin/env bash
# NiiVue 0.69.0 (Node.js 20): an image that is loaded with its own window (cal_min, cal_max) and trustCalMinMax: false
# loses the window without a word, where it is wider than the values in the middle half of the volume: NiiVue chooses
# one by percentiles. The option is documented as whether to trust the window in the file's header; the window of the
# call is written into the header first, and is distrusted with it. Two images that were to be compared in one window,
# or a map of small differences on a fixed scale, are then stretched to their own values each. A narrower window is
# kept, and with trustCalMinMax: true both are.
# Needs node and npm; NODE_MODULES=/path/to/node_modules uses an existing installation of @niivue/niivue.
#
# Seen, for values of -100 to 150: "window -160 to 240: -160 to 240 with trustCalMinMax true, -33.06 to 81.99 with
# false; window -20 to 80: -20 to 80 with true, -20 to 80 with false". Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
if [ -z "${NODE_MODULES:-}" ]; then
    npm install --prefix "$folder" --silent --no-audit --no-fund --ignore-scripts "@niivue/niivue@0.69.0"
else
    ln -s "$NODE_MODULES" "$folder/node_modules"
fi
cat >"$folder/window.mjs" <<'NODE'
import assert from 'node:assert'

globalThis.window = globalThis // NiiVue takes atob() from the browser's window
const { NVImage } = await import('@niivue/niivue')

// A NIfTI-1 file of 16 x 16 x 16 voxels of int16, -100 to 150.
const count = 16 ** 3
const file = new DataView(new ArrayBuffer(352 + 2 * count))
file.setInt32(0, 348, true)
;[3, 16, 16, 16, 1, 1, 1, 1].forEach((size, place) => file.setInt16(40 + 2 * place, size, true))
file.setInt16(70, 4, true)
file.setInt16(72, 16, true)
for (let place = 0; place < 8; place++) file.setFloat32(76 + 4 * place, 1, true)
file.setFloat32(108, 352, true)
file.setFloat32(112, 1, true)
file.setInt16(254, 1, true)
for (const place of [0, 5, 10]) file.setFloat32(280 + 4 * place, 1, true)
;[...'n+1'].forEach((letter, place) => file.setUint8(344 + place, letter.charCodeAt(0)))
for (let voxel = 0; voxel < count; voxel++) {
  file.setInt16(352 + 2 * voxel, -100 + Math.floor((251 * voxel) / count), true)
}
const base64 = Buffer.from(file.buffer).toString('base64')

async function shown(low, high, trustCalMinMax) {
  const image = await NVImage.loadFromBase64({ base64, name: 'ct.nii', cal_min: low, cal_max: high, trustCalMinMax })
  return [image.cal_min, image.cal_max]
}

const words = (values) => values.map((value) => Number(value.toFixed(2))).join(' to ')
const [wide, lost] = [await shown(-160, 240, true), await shown(-160, 240, false)]
const [narrow, kept] = [await shown(-20, 80, true), await shown(-20, 80, false)]
console.log(
  `window -160 to 240: ${words(wide)} with trustCalMinMax true, ${words(lost)} with false; ` +
    `window -20 to 80: ${words(narrow)} with true, ${words(kept)} with false`
)
assert.deepEqual([wide, narrow, kept], [[-160, 240], [-20, 80], [-20, 80]])
assert(lost[0] > -100 && lost[1] < 150, 'the behavior has changed')
NODE
node "$folder/window.mjs"
