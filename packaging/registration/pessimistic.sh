#!/bin/sh
# What a node says and does whose agent never runs: pessimistic.sh label|taint|no-join|absent [ROOT]. See README.md.
# For userData, before it fetches the binary. Writes the files that the agent itself writes first at every boot.
set -eu

case ${1:-} in
    label | taint | no-join | absent) policy=$1 ;;
    *)
        echo "usage: $0 label|taint|no-join|absent [ROOT]" >&2
        exit 2
        ;;
esac
root=${2:-/}
root=${root%/}
here=$(dirname "$0")
domain=nvme-agent.e6data.com
dropins=$root/etc/eks/nodeadm.d
cached=$root/run/eks/nodeadm/config.json
environment=$root/etc/eks/kubelet/environment

# nodeadm takes what ends in .yaml, and fails on half of one: a dot-name, flushed, renamed.
put() { # FILE: its text from stdin
    mkdir -p "$(dirname "$1")"
    new=$(dirname "$1")/.$(basename "$1").nvme-agent.$$.0
    cat >"$new"
    # What made the text failed.
    [ -s "$new" ] || {
        rm -f "$new"
        echo "$0: $1: there is nothing to write" >&2
        exit 1
    }
    chmod 0644 "$new"
    sync "$new"
    mv "$new" "$1"
}

gate() {
    # AL2 has no nodeadm: there it is kubelet.
    unit=kubelet.service
    for dir in etc/systemd usr/lib/systemd lib/systemd; do
        [ ! -f "$root/$dir/system/nodeadm-run.service" ] || unit=nodeadm-run.service
    done
    put "$root/etc/systemd/system/$unit.d/50-nvme-agent.conf" <"$here/nodeadm-run.service.d/50-nvme-agent.conf"
    # The unit may be waiting for its start already.
    [ -n "$root" ] || systemctl daemon-reload
}

# nodeadm reads the directory. An older image's unit does not name it, whoever has made it there.
reads() {
    [ -d "$dropins" ] || return 1
    for dir in etc/systemd usr/lib/systemd lib/systemd; do
        unit=$root/$dir/system/nodeadm-run.service
        [ -f "$unit" ] || continue
        cat "$unit" "$root"/etc/systemd/system/nodeadm-run.service.d/*.conf 2>/dev/null | grep -q /etc/eks/nodeadm.d
        return
    done
}

form=$here/50-nvme-agent.yaml
[ "$policy" != absent ] || form=$here/50-nvme-agent-absent.yaml

if [ "$policy" = taint ]; then
    if reads && ! grep -qs -e '--register-with-taints' "$cached"; then
        # The list is replaced as a whole, so that what is there (karpenter.sh/unregistered) is taken over. A taint has no
        # brackets. nodeadm writes the keys of an object sorted.
        ours="{\"effect\":\"NoSchedule\",\"key\":\"$domain/failed\"}"
        theirs=$(tr -d '\n' 2>/dev/null <"$cached" | sed -n 's/.*"registerWithTaints":[[:space:]]*\[\([^]]*\)\].*/\1/p') || theirs=
        case $theirs in
            '') taints=$ours ;;
            *"$domain/failed"*) taints=$theirs ;;
            *) taints=$theirs,$ours ;;
        esac
        sed "s|@TAINTS@|[$taints]|" "$here/50-nvme-agent-tainted.yaml" | put "$dropins/50-nvme-agent.yaml"
        exit
    fi
    # A shell had better not edit kubelet's flags: without the agent, which does, the node does not join.
    gate
fi
[ "$policy" != no-join ] || gate

if reads; then
    put "$dropins/50-nvme-agent.yaml" <"$form"
elif [ -f "$environment" ]; then
    labels=$(sed -n 's/^ *- "\(--node-labels=[^"]*\)"$/\1/p' "$form")
    # Inside of a quote around the whole value, else at its end; once.
    grep -q "=[^ ]*$domain/state=" "$environment" || sed \
        -e "s|^NODEADM_KUBELET_ARGS=\"\(.*\)\"\$|NODEADM_KUBELET_ARGS=\"\1 $labels\"|" -e t \
        -e "s|^NODEADM_KUBELET_ARGS=.*\$|& $labels|" "$environment" | put "$environment"
fi
