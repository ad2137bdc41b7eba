#!/bin/bash
# run.sh [-n rails] [-l layout] [-m MiB] [-t timeout_s] [-o outdir] [-v] -- CMD...
# Runs CMD in a User-mode Linux guest (build.sh) that has the host's own root (read-only, tmpfs overlay),
# with N rxe rails, in the same directory; returns its exit status.  No root, no KVM.  The guest has one CPU.
# In CMD: /out is a writable share of outdir on the host; every other change is thrown away.
# layout: flat (default) rails ra$i -> rb$i inside the guest; pair-a and pair-b: one of two hosts.
# Environment: RDMA_UML_DIR (where linux-uml is), RDMA_GUEST_ENV="A B" (variables to pass on), RAIL_MTU (default 4400).
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
die() { echo "run.sh: $*" >&2; exit 125; }
UML=${RDMA_UML_DIR:-$HERE/uml}/linux-uml
MEM=1024 TMO=300 RAILS=0 LAYOUT=flat OUT= VERB=0
while getopts m:t:n:l:o:v o; do case $o in
 m) MEM=$OPTARG;; t) TMO=$OPTARG;; n) RAILS=$OPTARG;; l) LAYOUT=$OPTARG;; o) OUT=$OPTARG;; v) VERB=1;; *) exit 2;; esac; done
shift $((OPTIND-1)); [ $# -gt 0 ] || { sed -n 2,7p "$0"; exit 2; }
[ -x "$UML" ] || die "no $UML: run $HERE/build.sh first"
[ -x /bin/busybox ] || die "no /bin/busybox: apt-get install -y busybox-static"
[ "$RAILS" = 0 ] || command -v rdma >/dev/null || PATH=$PATH:/usr/sbin:/sbin command -v rdma >/dev/null || die "no rdma tool: apt-get install -y iproute2"

scratch=$(mktemp -d); trap 'rm -rf "$scratch"' EXIT
if [ -z "$OUT" ]; then OUT=$scratch/out; fi; mkdir -p "$OUT"; OUT=$(cd "$OUT" && pwd)
case $OUT$HERE in *[\ ,\"]*) die "blanks, commas and quotes in paths do not survive the kernel command line: $OUT $HERE";; esac
rm -f "$OUT/.rc"
{ echo '#!/bin/bash'
  printf 'export HOME=%q TERM=dumb LANG=C.UTF-8 RDMA_GUEST=uml\n' "${HOME:-/root}"
  printf 'export PATH=%q:/usr/sbin:/sbin\n' "$PATH"
  for v in ${RDMA_GUEST_ENV:-}; do printf 'export %s=%q\n' "$v" "${!v-}"; done
  [ -z "${RAIL_MTU:-}" ] || printf 'export RAIL_MTU=%q\n' "$RAIL_MTU"
  printf 'cd %q || exit 125\n' "$PWD"
  if [ "$RAILS" -gt 0 ]; then printf '. %q %q %q || exit 126\n' "$HERE/bin/rails_up.sh" "$RAILS" "$LAYOUT"; fi
  if [ $# -eq 1 ]; then printf 'bash -c %q\n' "$1"; else printf '%q ' "$@"; echo; fi
} > "$OUT/.cmd.sh"

# The guest's memory is an unlinked file in $TMPDIR, mapped executable (a container's /dev/shm is often noexec);
# a full file system there is a SIGBUS in the guest.
runs_from() {
  local f r=0; f=$(mktemp -p "$1" rdma-uml.XXXXXX) || return 1
  printf '#!/bin/sh\nexit 0\n' > "$f" && chmod 700 "$f" && "$f" 2>/dev/null || r=1
  rm -f "$f"; return $r
}
mem=
for d in ${RDMA_UML_TMP:-/dev/shm "${TMPDIR:-/tmp}"}; do
  [ -w "$d" ] && [ "$(df -Pm "$d" | awk 'NR==2{print $4}')" -ge "$MEM" ] && runs_from "$d" && { mem=$d; break; } || true
done
[ -n "$mem" ] || die "no folder with $MEM MiB free, and not mounted noexec, for the guest's memory (set RDMA_UML_TMP)"
mhz=$(awk '/cpu MHz/{print $4; exit}' /proc/cpuinfo 2>/dev/null || true)

# fd 3 = where CMD's output goes: a pipe into cat, as the kernel makes it non-blocking and our stdout may be anybody's.
# The guest makes a session of its own, so a Ctrl-C or a TERM has to be handed on.
# ${RDMA_UML_ARGS} : extra kernel arguments (network devices of two hosts).
mkfifo "$scratch/pipe"
{ cat || cat >/dev/null; } <"$scratch/pipe" & cat=$!      # when our stdout is closed (| head), go on taking the output
TMPDIR=$mem timeout --foreground -k 5 "$TMO" bash -c 'echo $$ > "$0"; exec "$@"' "$scratch/pid" \
    "$UML" mem="${MEM}M" root=none rootfstype=hostfs rootflags=/ ro init="$HERE/bin/uml_init" \
    uml_dir="$scratch" umid=g con=null con1=null,fd:3 dummy.numdummies=0 ifb.numifbs=0 \
    quiet loglevel="${RDMA_GUEST_LOGLEVEL:-4}" panic=-1 oops=panic \
    RG_OUT="$OUT" RG_MHZ="${mhz:-2000.000}" ${RDMA_UML_ARGS:-} </dev/null 3>"$scratch/pipe" >"$scratch/console" 2>&1 & uml=$!
ended=; trap 'ended=143; kill -TERM $uml 2>/dev/null || true' INT TERM
start=$SECONDS q=0; wait $uml 2>/dev/null || q=$?
while kill -0 $uml 2>/dev/null; do q=0; wait $uml 2>/dev/null || q=$?; done    # a trap ends the first wait early
# a guest that was killed leaves helper processes behind (one built without EXITKILL its programs, too); they would hold the
# pipe open.  All are in the guest's own process group, so after this cat sees the end of the pipe.  No limit on the wait for
# cat: with a slow reader behind our stdout (a pager, a log collector) it would cut off the end of the output.
p=$(cat "$scratch/pid" 2>/dev/null || true); [ -z "$p" ] || kill -KILL -- "-$p" 2>/dev/null || true
wait $cat || true
rc=$(cat "$OUT/.rc" 2>/dev/null || true)
if [ "$VERB" = 1 ] || [ -z "$rc" ]; then sed 's/^/[console] /' "$scratch/console" >&2; echo "[host] uml exit $q (124: timeout), guest rc ${rc:-none}" >&2; fi
if [ -z "$rc" ]; then
  rc=${ended:-255}
  # 137: killed; by timeout -k if the time is up, else by somebody (out of memory)
  if [ $q = 124 ] || { [ $q = 137 ] && [ $((SECONDS-start)) -ge "${TMO%%[!0-9]*}" ]; }; then rc=124; fi
fi
exit "$rc"
