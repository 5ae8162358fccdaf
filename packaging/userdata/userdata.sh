#!/bin/bash
## The template of `nvme-agent render userdata` (agent/src/render/userdata.rs), which puts values in for what is between at-signs,
## keeps of the parts between `##[` and `##]` those that the options need, and takes out these comments and the indentation: EC2
## has room for 16 KiB in all. Plain POSIX, and neither a dollar nor a per cent sign before a brace, so that nothing has to be
## escaped in Terraform. agent/tests/userdata.rs holds it against ../registration/pessimistic.sh, which has the reasons, and
## against the agent's own files: with another directory than / to stand in, since every path is relative.
# nvme-agent @VERSION@; log: journalctl -t nvme-agent
PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd /
pkg=usr/bin/nvme-agent
own=usr/local/bin/nvme-agent
new=var/lib/nvme-agent/download
dir=etc/eks/nodeadm.d
file=$dir/50-nvme-agent.yaml
env=etc/eks/kubelet/environment
## In the labels, for their length.
# shellcheck disable=SC2034
D=@DOMAIN@

say() { timeout 5 logger -st nvme-agent -- "userData: $*"; }

## FILE, its text from stdin. nodeadm never meets half of one: a dot-name, flushed, renamed.
put() {
    d=$(dirname "$1")
    n=$d/.$(basename "$1").nvme-agent.$$.0
    mkdir -p "$d" && cat >"$n" && [ -s "$n" ] && chmod 0644 "$n" && timeout 20 sync "$n" && mv "$n" "$1" && return
    rm -f "$n"
    say "cannot write $1"
    return 1
}

labels() { echo "--node-labels=@STATE@=$1@LABELS@"; }

## STATE
config() {
    cat <<EOF
@HEAD@
      - "$(labels "$1")"
EOF
}

## nodeadm reads the directory: an older image's unit does not name it, whoever has made it there.
unit=etc/systemd/system/nodeadm-run.service
reads() { [ -d $dir ] && { [ ! -f $unit ] || grep -qs $dir $unit $unit.d/*; }; }

## STATE
label() {
    if reads; then
        config "$1" | put $file
    elif l=$(labels "$1") && [ -f $env ] && ! grep -qFe "$l" $env; then
        v=NODEADM_KUBELET_ARGS
        ## In a quote around the whole value, else at its end. What begins with another quote is left alone.
        sed -e "s|^\($v=\([\"']\)[^\"']*\)\2\$|\1 $l\2|" -e t -e "s|^$v=\$|&$l|" -e t \
            -e "s|^$v=[^\"'].*|& $l|" $env | put $env
    fi
}

##[gate
gate() {
    u=nodeadm-run
    s=systemd/system/$u.service
    [ -f etc/$s ] || [ -f usr/lib/$s ] || [ -f lib/$s ] || u=kubelet
    b=$pkg
    [ -f $b ] || b=$own
    for at in etc run; do
        put $at/systemd/system/$u.service.d/50-nvme-agent.conf <<EOF && break
# Written by \`nvme-agent install\`, which overwrites it.
[Service]
ExecStartPre=/$b gate
EOF
    done
    timeout 60 systemctl daemon-reload || say 'daemon-reload failed'
}

##]
##[taint
## Fails where a shell cannot know what else the node is to be tainted with.
taint() {
    reads && ! grep -Els 'register(WithT|-with-t)aints' $dir/* | grep -qv 50-nvme-agent || return
    ours='{"effect":"NoSchedule","key":"@TAINT@"}'
    t=$(tr -d '[:space:]' <run/eks/nodeadm/config.json)
    case $t in
        *register-with-taints*) return 1 ;;
        *'"registerWithTaints":['*)
            t=$(echo "$t" | sed -e 's/.*"registerWithTaints":\[\([^]]*\)\].*/\1,/' -e 's/^,//' -e "s|$ours,||")
            ;;
        *registerWithTaints*) return 1 ;;
        *'"spec"'*) t='' ;;
        *) return 1 ;;
    esac
    {
        config failed
        printf '    config:\n      registerWithTaints: [%s]\n' "$t$ours"
    } | put $file
}

##]
if [ "$*" != fetch ]; then
##[absent
    if ! grep -qs @MODELS@ sys/class/nvme/*/model; then
        label absent
        exit 0
    fi
##]
    ## What holds where all of the rest fails.
##[label
    label failed
##]
##[taint
    taint || { label failed; gate; }
##]
##[no-join
    label failed
    gate
##]
    timeout -k 10 @DEADLINE@ /bin/bash "$0" fetch </dev/null || say "gave up ($?)"
    exit 0
fi

case $(uname -m) in
##[x86_64
    x86_64) url=@URL_X86_64@ sum=@SUM_X86_64@ ;;
##]
##[aarch64
    aarch64) url=@URL_AARCH64@ sum=@SUM_AARCH64@ ;;
##]
esac

good() { [ -f "$1" ] && [ "$(timeout 60 sha256sum <"$1")" = "$sum  -" ]; }

fetch() {
    d=$(dirname $new)
    [ "$url" ] && mkdir -p "$d" && chmod 0700 "$d" || return
    for i in 1 2 3; do
        [ $i = 1 ] || sleep 5
##[curl
        set -- curl -fsSL --retry 3 --connect-timeout 10 --max-time @TRY@ -o $new "$url"
##]
##[s3
        case $url in s3:*) set -- aws s3 cp --only-show-errors@REGION@ "$url" $new ;; esac
##]
        if why=$(timeout -k 5 @TRY@ "$@" 2>&1); then
            good $new && chmod 0755 $new && return
            why='wrong sha256'
        else
            why="status $? $why"
        fi
        say "$url: $why"
        rm -f $new
    done
    return 1
}

## A package's binary is the one that its units run, and is never shadowed. Of others the one that is named here is wanted.
bin=$pkg
if [ -x $bin ]; then
    good $bin || say "$bin is kept"
elif bin=$own && good $bin; then
    :
elif fetch; then
    bin=$new
elif [ ! -x $own ]; then
    say "no binary for $(uname -m)"
    exit 1
fi
##[config

c=etc/nvme-agent/config.toml
## A package's has all of its lines commented out: it says nothing, and must not keep out what userData says.
if ! grep -qs '^[^#]' $c || grep -qsx '# By userData' $c; then
    put $c <<'EOF' || exit 1
# By userData
@CONFIG@
EOF
else
    say "$c stays"
fi
##]

go() {
    ## By this shell, which runs no binary of another architecture as a script, as timeout(1) may. In time: see the deadline.
    $bin install || return
    if [ $bin != $pkg ]; then
        timeout 30 restorecon $own 2>/dev/null
        rm -f $new
        bin=$own
    fi
    timeout -k 10 @SETUP@ $bin setup --trigger user-data
}

why=$(go 2>&1) || { say "$bin: status $? $why"; exit 1; }
echo "$why"
## Not waited for: it comes after kubelet, which comes after this.
timeout 20 systemctl --no-block start nvme-agent-report.timer
exit 0
