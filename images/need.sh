# shellcheck shell=bash
# `need PACKAGE...` installs what is missing of Debian packages. Sourced by scripts here and in tests/.
need() {
    local missing=() package sudo=()
    for package; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    "${sudo[@]}" apt-get -qq update
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null
}
