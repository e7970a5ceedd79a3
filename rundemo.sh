#!/usr/bin/env bash
# Sets up .venv (once), then attacks the trained 3D U-Net of bundles/ct_abdomen_unet on CT phantoms.
# Arguments override ids of the bundle's attack.yaml and demo.yaml, as for any MONAI bundle: ./rundemo.sh --output_dir /tmp/attacked
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$ROOT/.ci/setup.sh"
setup_environment dicom

bundle="$ROOT/bundles/ct_abdomen_unet"
for config in attack demo; do
    [ -f "$bundle/configs/$config.yaml" ] || fail "$bundle/configs/$config.yaml is missing: the checkout is not complete."
done

# The caller's working directory stays, so that relative paths in the arguments mean what they say.
"$PYTHON_BIN" -m monai.bundle run --config_file "['$bundle/configs/attack.yaml','$bundle/configs/demo.yaml']" \
    --bundle_root "$bundle" "$@"

output="$bundle/eval/attack"
for ((i = 1; i <= $#; i++)); do
    case "${!i}" in
        --output_dir=*) output="${!i#--output_dir=}" ;;
        --output_dir) j=$((i + 1)) && output="${!j:-$output}" ;;
    esac
done
echo "Results: $output"
echo "Report:  $output/report/report.html"
