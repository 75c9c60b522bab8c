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

say() { echo "== $*"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
mesa() { dpkg-query -W -f '${Version}' mesa-vulkan-drivers 2>/dev/null || true; }

say "Mesa's software Vulkan, 24 or newer"
if ! dpkg --compare-versions "$(mesa)" ge 24; then
    . /etc/os-release
    from=()
    if [ "${VERSION_CODENAME:-}" = bookworm ]; then
        echo "deb http://deb.debian.org/debian bookworm-backports main" |
            as_root tee /etc/apt/sources.list.d/hummingbird-backports.list >/dev/null
        from=(-t bookworm-backports)
    fi
    as_root apt-get update -qq
    as_root apt-get install -y -qq --no-install-recommends "${from[@]}" mesa-vulkan-drivers
    dpkg --compare-versions "$(mesa)" ge 24 ||
        { echo "mesa-vulkan-drivers is $(mesa), not 24 or newer: install one by hand"; exit 1; }
fi

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
