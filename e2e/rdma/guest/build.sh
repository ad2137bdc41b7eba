#!/bin/bash
# build.sh [OUTDIR] : build a User-mode Linux binary with soft-RoCE -> OUTDIR/linux-uml  (default: ./uml next to this file)
# The source is Debian's package linux-source-6.1 (downloaded and unpacked, not installed).  Prints the binary's path.
#   build.sh -k        print the cache key (source version + fragment + compiler + this script) and exit
#   SOURCE_TAR=file.tar.xz use this source instead of downloading     JOBS=n  parallel compilers (default: all CPUs)
#   KEEP_WORK=1            keep the build folder
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
PKG=${SOURCE_PKG:-linux-source-6.1}
FRAG=${UML_FRAG:-$HERE/kernel.config}
die() { echo "build.sh: $*" >&2; exit 1; }
APT_LINE="apt-get install -y --no-install-recommends gcc libc6-dev make flex bison bc xz-utils busybox-static iproute2 rdma-core ibverbs-providers"

if [ -n "${SOURCE_TAR:-}" ]; then VER=$(sha256sum "$SOURCE_TAR" | cut -c1-12)
else VER=$(apt-cache policy "$PKG" 2>/dev/null | awk '$1=="Candidate:"{print $2}')
  case $VER in ""|"(none)") die "package $PKG is not known here: run apt-get update (Debian 12)";; esac
fi
command -v gcc >/dev/null || die "gcc is missing: $APT_LINE"
KEY=$({ echo "$PKG $VER"; gcc -dumpfullversion; cat "$FRAG" "$HERE/build.sh"; } | sha256sum | cut -c1-16)
if [ "${1:-}" = -k ]; then echo "$KEY"; exit 0; fi

OUT=${1:-${RDMA_UML_DIR:-$HERE/uml}}; mkdir -p "$OUT"; OUT=$(cd "$OUT" && pwd)
if [ -x "$OUT/linux-uml" ] && [ "$(cat "$OUT/key" 2>/dev/null)" = "$KEY" ]; then echo "$OUT/linux-uml"; exit 0; fi

for t in make flex bison bc xz tar ld; do command -v $t >/dev/null || die "$t is missing: $APT_LINE"; done
work=$(mktemp -d -p "${TMPDIR:-/tmp}" uml-build.XXXXXX)
[ -n "${KEEP_WORK:-}" ] || trap 'rm -rf "$work"' EXIT
[ "$(df -Pk "$work" | awk 'NR==2{print $4}')" -gt 1800000 ] || die "need 1.8 GB free in ${TMPDIR:-/tmp} (set TMPDIR)"

t0=$SECONDS
if [ -n "${SOURCE_TAR:-}" ]; then tarball=$SOURCE_TAR; else
  echo "[guest] downloading $PKG $VER" >&2
  # the sandbox user of apt cannot write into a folder of mode 700
  (cd "$work" && apt-get -o APT::Sandbox::User=root download -qq "$PKG=$VER") || die "apt-get download $PKG=$VER failed"
  dpkg-deb --fsys-tarfile "$work"/*.deb | tar -x -C "$work" --wildcards './usr/src/linux-source-*.tar.xz'
  tarball=$(ls "$work"/usr/src/linux-source-*.tar.xz)
fi
echo "[guest] $((SECONDS-t0)) s: unpacking" >&2
# what a User-mode Linux build never reads (Kconfig and Makefile of every folder have to stay)
mkdir "$work/src" "$work/b"
tar -x -f "$tarball" -C "$work/src" --strip-components=1 --exclude='*/Documentation/*/*' --exclude='*/tools/testing/*' \
    --exclude='*/tools/perf/*' --exclude='*/drivers/gpu/drm/amd/include/*' --exclude='*/arch/*/boot/dts/*'
# Guest processes are host processes traced by the kernel process.  Without EXITKILL one that is left when that ends (it can be,
# while it exits) would run on untraced: at full speed for ever, and its system calls would go to the host.
f=$work/src/arch/um/os-Linux/skas/process.c
sed -i 's/(void \*) \?PTRACE_O_TRACESYSGOOD)/(void *)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL))/' "$f"
[ "$(grep -c PTRACE_O_EXITKILL "$f")" = 2 ] || die "the EXITKILL patch does not fit this source ($f)"
echo "[guest] $((SECONDS-t0)) s: configuring" >&2
M=(make -s -C "$work/src" ARCH=um O="$work/b")
"${M[@]}" KCONFIG_ALLCONFIG="$FRAG" allnoconfig >"$work/log" 2>&1 || { tail -20 "$work/log" >&2; die "configuration failed"; }
# a renamed or unmet option would be dropped silently: check that every line of the fragment held
bad=0; while read -r l; do grep -qxF "$l" "$work/b/.config" || { echo "[guest] not in effect: $l" >&2; bad=1; }; done < <(grep -E '^CONFIG_[A-Z0-9_]+=' "$FRAG" | grep -v '=n$')
[ $bad = 0 ] || die "the kernel did not take the whole fragment $FRAG"
echo "[guest] $((SECONDS-t0)) s: compiling" >&2
"${M[@]}" -j "${JOBS:-$(nproc)}" linux >"$work/log" 2>&1 || { tail -30 "$work/log" >&2; die "compilation failed"; }
strip -o "$OUT/linux-uml.new" "$work/b/linux"; mv "$OUT/linux-uml.new" "$OUT/linux-uml"
cp "$work/b/.config" "$OUT/config"; echo "$KEY" > "$OUT/key"
echo "[guest] $((SECONDS-t0)) s: done, $(stat -c %s "$OUT/linux-uml") bytes, kernel $(cat "$work/b/include/config/kernel.release"), key $KEY" >&2
echo "$OUT/linux-uml"
