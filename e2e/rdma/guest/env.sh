# Sourced: where the guest's kernel is kept, and making it. One build for each key, in the user's cache.
rdma_guest_folder() {
    echo "${RDMA_UML_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/tent/rdma-guest/$(bash "$1/e2e/rdma/guest/build.sh" -k)}"
}

# rdma_guest ROOT: makes the kernel if it is not there; sets and exports RDMA_UML_DIR.
rdma_guest() {
    local folder
    folder=$(rdma_guest_folder "$1") || return 1
    mkdir -p "$folder"
    if [ ! -x "$folder/linux-uml" ]; then
        echo "building the guest's kernel into $folder (once; five minutes on two free cores)"
        (flock 9 && bash "$1/e2e/rdma/guest/build.sh" "$folder" >"$folder/build.log" 2>&1) 9>"$folder.lock" || {
            tail -30 "$folder/build.log" >&2
            return 1
        }
    fi
    export RDMA_UML_DIR=$folder
}
