#!/bin/sh
# Installs a box from this folder on any distribution with systemd 252 or later: `sudo ./install.sh`, `sudo ./install.sh
# --uninstall`. Configuration, models and records stay where they are; `--purge` takes them, too.
set -eu
cd "$(dirname "$0")"

prefix=/usr/local
units=/etc/systemd/system
share=$prefix/share

fail() {
    echo "install.sh: $1" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "must be root: say sudo ./install.sh"
command -v systemctl >/dev/null || fail "no systemd here: bin/outstation runs by itself, under any supervisor"

uninstall() {
    systemctl disable --now outstation.service outstation.socket 2>/dev/null || true
    [ ! -x "$share/outstation/hardware/choose" ] || "$share/outstation/hardware/choose" --remove
    rm -rf "$prefix/bin/outstation" "$share/outstation" "$units"/outstation.service "$units"/outstation.socket \
        "$share"/man/man1/outstation.1 "$share"/man/man1/outstation-*.1 "$share/bash-completion/completions/outstation" \
        "$share/zsh/site-functions/_outstation" "$share/fish/vendor_completions.d/outstation.fish" \
        /etc/sysusers.d/outstation.conf /etc/tmpfiles.d/outstation.conf
    systemctl daemon-reload
}

case ${1:-} in
    '') ;;
    --uninstall) uninstall; exit 0 ;;
    --purge) uninstall; rm -rf /etc/outstation /var/lib/outstation /run/outstation; exit 0 ;;
    *) fail "say nothing, --uninstall or --purge" ;;
esac

# Tried before anything is changed: a C library that is too old says so here.
bin/outstation --version || fail "bin/outstation does not run here: take the build for $(uname -m), or a newer C library"

install -D -m 755 bin/outstation "$prefix/bin/outstation"
install -D -m 644 systemd/outstation.sysusers /etc/sysusers.d/outstation.conf
install -D -m 644 systemd/outstation.tmpfiles /etc/tmpfiles.d/outstation.conf
mkdir -p "$units" "$share/outstation/hardware" "$share/man/man1"
for unit in outstation.service outstation.socket; do
    sed "s|/usr/bin/outstation|$prefix/bin/outstation|" "systemd/$unit" >"$units/$unit"
done
install -m 644 systemd/hardware/*.conf "$share/outstation/hardware/"
install -m 755 systemd/hardware/choose "$share/outstation/hardware/"
install -m 644 man/*.1 "$share/man/man1/"
install -D -m 644 completions/outstation "$share/bash-completion/completions/outstation"
install -D -m 644 completions/_outstation "$share/zsh/site-functions/_outstation"
install -D -m 644 completions/outstation.fish "$share/fish/vendor_completions.d/outstation.fish"
systemd-sysusers outstation.conf
systemd-tmpfiles --create outstation.conf
[ -e /etc/outstation/outstation.toml ] || install -m 644 systemd/outstation.toml /etc/outstation/outstation.toml
"$share/outstation/hardware/choose"
systemctl daemon-reload
systemctl enable outstation.socket outstation.service
# The ports, which stay open over a restart; then the service, which waits for its first token.
systemctl start outstation.socket
systemctl restart outstation.service || {
    journalctl --no-pager --output cat --unit outstation --lines 3
    fail "installed, but it does not start: the line above says why"
}
systemctl --no-pager --lines 0 status outstation.service
