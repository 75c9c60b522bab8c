#!/usr/bin/env bash
# Sets up ONNX Runtime's WebGPU provider on Mesa's software Vulkan, on Debian or Ubuntu, for
# tests/webgpu.
#
#     bash tests/webgpu/set_up.sh [FOLDER]
#
# FOLDER is $HUMMINGBIRD_WEBGPU, else ~/.cache/hummingbird-edge/webgpu. What is there already
# stays; remove FOLDER to start afresh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-${HUMMINGBIRD_WEBGPU:-$HOME/.cache/hummingbird-edge/webgpu}}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python=$(command -v python || command -v python3)

. "$here/../mesa.sh"
say() { echo "== $*"; }

say "Mesa's software Vulkan, 24 or newer"
install_mesa

say "onnxruntime-webgpu and the runtime's dependencies"
# An environment of its own: the package takes the place of onnxruntime.
if [ ! -e "$folder/packages" ]; then
    "$python" -m venv "$folder/venv"
    # What has a marker is onnxruntime in its builds: here it is WebGPU's.
    mapfile -t needed < <(
        sed -n '/^dependencies = \[/,/^\]/s/^ *"\([^";]*\)",$/\1/p' "$here/../../pyproject.toml"
    )
    "$folder/venv/bin/pip" install -q "${needed[@]}" onnxruntime-webgpu==1.27.0
    touch "$folder/packages"
fi

say "A first run"
rm -f "$folder/ready"
said=$("$folder/venv/bin/python" -c "
import onnxruntime
print(onnxruntime.__version__, *onnxruntime.get_available_providers())")
echo "$said"
case $said in *WebGpuExecutionProvider*) ;; *) echo "WebGPU is not there"; exit 1 ;; esac
touch "$folder/ready"
say "ready: HUMMINGBIRD_WEBGPU=$folder pytest tests/webgpu"
