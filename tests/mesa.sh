# Installs Mesa's software Vulkan, 24 or newer, on Debian or Ubuntu: older ones compute NaN.
# Read by directml/set_up.sh and webgpu/set_up.sh.

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
mesa() { dpkg-query -W -f '${Version}' mesa-vulkan-drivers 2>/dev/null || true; }
sources() { apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $1"; }

install_mesa() {
    dpkg --compare-versions "$(mesa)" ge 24 && return
    as_root apt-get update -qq
    . /etc/os-release
    local release=${VERSION_CODENAME:-} from=() place
    if [ "$release" = bookworm ]; then
        # From backports, which lie where this machine has the release itself from.
        if [ -z "$(sources "$release-backports")" ]; then
            place=$(sources "$release" | sort -u | head -n 1)
            echo "deb $place $release-backports main" |
                as_root tee /etc/apt/sources.list.d/hummingbird-backports.list >/dev/null
            as_root apt-get update -qq
        fi
        from=(-t "$release-backports")
    fi
    as_root apt-get install -y -qq --no-install-recommends "${from[@]}" mesa-vulkan-drivers
    dpkg --compare-versions "$(mesa)" ge 24 ||
        { echo "mesa-vulkan-drivers is $(mesa), not 24 or newer: install one by hand"; exit 1; }
}
